"""What `vidwm finetune --from` can be told: a world model of one robot becomes that of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidwm.data_config import ActionOptions
from vidwm.options import option

Trained = Literal["all", "networks", "decoder"]
TRAINED_HELP = (
    "decoder: frames keep their tokens; networks: the encoder too; all: also the codebook of vq"
)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(ActionOptions):
    """A world model of another robot or camera to start from; its split is drawn anew."""

    from_: Path | None = option(None, "world model to adapt to the data, in place of model")
    height: int = option(
        0, "frame height in pixels (0: as recorded, or with resize the model's)", at_least=0
    )
    width: int = option(
        0, "frame width in pixels (0: as recorded, or with resize the model's)", at_least=0
    )
    heldout: float = option(0.1, "share of episodes kept from training", at_least=0, below=1)
    split_seed: int = option(0, "seed of the choice of held-out episodes", at_least=0)
    tokenizer_steps: int = option(0, "first, steps of the tokenizer (0: it stays)", at_least=0)
    tokenizer_batch_size: int = option(32, "frames per step", at_least=1)
    tokenizer_learning_rate: float = option(1e-4, "peak learning rate of AdamW", above=0)
    tokenizer_gradient_checkpointing: bool = option(
        False, "recompute its activations in the backward pass: less memory, more work"
    )
    tokenizer_trained: Trained = option("decoder", TRAINED_HELP)
    pretrain_steps: int = option(1000, "then, steps of maximum likelihood", at_least=0)
    pretrain_batch_size: int = option(16, "clips per step", at_least=1)
    pretrain_learning_rate: float = option(1e-4, "peak learning rate of AdamW", above=0)
