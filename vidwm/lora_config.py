"""What training with low-rank updates can be told."""

from __future__ import annotations

from dataclasses import dataclass

from vidwm.options import Options, option


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """Low-rank updates (LoRA) of the transformer, by the package `peft`."""

    lora_rank: int = option(0, "rank of the updates; the matrices stay (0: train all)", at_least=0)
    lora_alpha: float = option(16.0, "their scale is lora_alpha / lora_rank", above=0)
