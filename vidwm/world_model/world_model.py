"""WorldModel: a tokenizer and a transformer that agree on one layout and one set of action ranges.

    frames + actions --tokenizer, bins--> tokens --layout--> sequence --transformer--> next tokens

Its directory is the only checkpoint format a user sees:

    world_model.json   what the model expects: frames, sizes, frame rate, actions and their ranges
    tokenizer/         config.json, model.safetensors (of an imported one, as it was released)
    transformer/       config.json, model.safetensors (a Hugging Face Llama directory)
    README.md          model card
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vidwm.data.action_semantics import ActionSemantics
from vidwm.data.kept_parts import KeptPart
from vidwm.errors import UserError
from vidwm.files import read_json, write_json
from vidwm.tokenizer.open_tokenizer import Tokenizer, open_tokenizer
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.codec import Codec, DecodeRows, codec_of
from vidwm.world_model.layout import Layout
from vidwm.world_model.transformer import Transformer

FORMAT_VERSION = 1
LATER_FIELDS = ("semantics", "camera", "parts")  # models saved before there were any lack them
CARD = """---
library_name: vidwm
tags: [robotics, world-model, video-prediction]
---
# World model

Predicts {horizon} frames of {height}x{width} at {fps:g} frames a second from {context} and the
robot's actions ({actions}).

- `vidwm.WorldModel.from_pretrained(directory)` opens it, `vidwm finetune --model` goes on from it.
- `transformer/` opens with `transformers.LlamaForCausalLM.from_pretrained`; `tokenizer/` makes its
  ids ({kind}, {tokens} tokens a predicted frame).
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a model was trained on; fps counts recorded frames per second, before `frame_skip`.

    heldout and split_seed say which episodes it never saw (`data.sampler.split_episodes`),
    semantics what its actions are, camera which one or which several it sees (None: the reader's
    choice), and parts what those of a mixture say of either by themselves.
    """

    context_frames: int
    horizon: int
    frame_skip: int
    fps: float
    action_names: tuple[str, ...]
    heldout: float
    split_seed: int
    shared_action_ids: bool = False
    semantics: ActionSemantics = dataclasses.field(default_factory=ActionSemantics)
    camera: str | None = None
    parts: tuple[KeptPart, ...] = ()

    @property
    def model_fps(self) -> float:
        """Frames per second of the model's own steps."""
        return self.fps / self.frame_skip


class WorldModel(nn.Module):
    """Predicts frames from frames and actions."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: Transformer,
        actions: ActionBins,
        setting: Setting,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.transformer = transformer
        self.actions = actions
        self.setting = setting
        self.codec = codec_for(tokenizer, actions, setting)
        if transformer.config.vocab_size != self.layout.vocab_size:
            raise UserError(
                f"The transformer has {transformer.config.vocab_size} ids, tokenizer and actions "
                f"need {self.layout.vocab_size}; they belong to different models."
            )
        if transformer.config.max_position_embeddings < self.layout.sequence_length:
            raise UserError(
                f"{setting.context_frames} context frames and a horizon of {setting.horizon} take "
                f"{self.layout.sequence_length} tokens, but the transformer has "
                f"{transformer.config.max_position_embeddings} positions; use a shorter horizon, "
                f"or make room for it with `vidwm finetune --from`."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of its frames, in pixels."""
        return self.tokenizer.height, self.tokenizer.width

    @property
    def device(self) -> torch.device:
        return self.transformer.lm_head.weight.device

    @property
    def layout(self) -> Layout:
        return self.codec.layout

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames (B, T, 3, H, W) in [0, 1] -> context (B, ...) of the first c, tokens (B, T-c, N).

        c = context_frames; what a context is made of is the layout's business.
        """
        return self.codec.encode(frames.to(self.device))

    def context(self, frames: Tensor) -> Tensor:
        """The context (B, ...) that the first c of frames (B, T, 3, H, W) are."""
        return self.encode(frames[:, : self.setting.context_frames])[0]

    def bins(self, actions: Tensor) -> Tensor:
        """actions (B, T, A) in the unit of the data -> bins (B, T, A) int64."""
        return self.actions.encode(actions).to(self.device)

    @torch.no_grad()
    def decode(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, ..., N) after contexts (B, ...) -> frames (B, ..., 3, H, W) in [0, 1]."""
        return self.codec.decode(tokens, context)

    @torch.no_grad()
    def rows(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, DecodeRows]:
        """tokens (B, ..., N) -> rows (B, ..., R), and what decodes any of them, for a `Scorer`."""
        return self.codec.rows(tokens, context)

    def save_pretrained(
        self, directory: str | Path, *, card: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the directory, weights as `dtype`; `card`: its README.md (None: `card()`)."""
        directory = Path(directory)
        self.tokenizer.save_pretrained(directory / "tokenizer", dtype)
        self.transformer.save_pretrained(directory / "transformer", dtype)
        height, width = self.size
        write_json(
            directory / "world_model.json",
            {
                "format_version": FORMAT_VERSION,
                "kind": self.codec.kind,
                **dataclasses.asdict(self.setting),
                "height": height,
                "width": width,
                "action_ranges": self.actions.to_json(),
                "layout": dataclasses.asdict(self.layout),
            },
        )
        (directory / "README.md").write_text(
            self.card() if card is None else card, encoding="utf-8"
        )

    def card(self, *sections: str) -> str:
        """A model card: what the model predicts, how to open it, the parts of a mixture it was
        trained on, and then the given sections.
        """
        setting, (height, width) = self.setting, self.size
        c = setting.context_frames
        head = CARD.format(
            horizon=setting.horizon,
            height=height,
            width=width,
            fps=setting.model_fps,
            context="1 frame" if c == 1 else f"{c} frames",
            actions=", ".join(setting.action_names),
            kind=self.codec.kind.replace("_", "-"),
            tokens=self.layout.tokens_per_frame,
        )
        parts = "\n".join(f"- {part.line}" for part in setting.parts)
        mixture = f"## Parts of its mixture\n\n{parts}" if parts else ""
        return "\n\n".join(part.strip() for part in (head, mixture, *sections) if part) + "\n"

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> WorldModel:
        """Open a directory on the CPU, in eval mode; UserError names what is missing or damaged."""
        directory = Path(directory)
        if not directory.is_dir():
            raise UserError(f"No world model at {directory}: there is no such folder.")
        path = directory / "world_model.json"
        if not path.exists():
            raise UserError(f"{directory} is no world model: {_what_else(directory)}.")
        values = read_json(path)
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} is of version {version}; this vidwm opens version {FORMAT_VERSION}."
            )
        names = [field.name for field in dataclasses.fields(Setting)]
        required = [name for name in names if name not in LATER_FIELDS]
        if missing := [n for n in [*required, "action_ranges"] if n not in values]:
            raise UserError(f"{path} lacks {', '.join(missing)}; restore the file.")
        setting = {name: values[name] for name in names if name in values}
        setting["action_names"] = tuple(setting["action_names"])
        if "semantics" in setting:
            setting["semantics"] = ActionSemantics.from_json(setting["semantics"])
        setting["parts"] = tuple(map(KeptPart.from_json, setting.get("parts", ())))
        model = cls(
            open_tokenizer(directory / "tokenizer"),
            Transformer.from_pretrained(directory / "transformer"),
            ActionBins.from_json(values["action_ranges"]),
            Setting(**setting),
        )
        if values.get("kind") != model.codec.kind:
            raise UserError(
                f"{path} is of kind {values.get('kind')!r}, but its tokenizer makes a world model "
                f"of kind {model.codec.kind!r}; they belong to different models."
            )
        return model.eval()


def _what_else(directory: Path) -> str:
    """What a folder without world_model.json is, and which one to name instead."""
    newest = directory / "checkpoints" / "last" / "model"
    if newest.exists():
        return f"it is a run folder, whose newest model is {newest}"
    if (directory / "config.json").exists():
        return (
            "it holds a tokenizer or a transformer alone; name the folder with world_model.json "
            "(`vidwm import` makes one of a released pair)"
        )
    return "world_model.json is missing, so it is incomplete or the wrong folder"


def codec_for(tokenizer: Tokenizer, actions: ActionBins, setting: Setting) -> Codec:
    """Codec and sequence layout that follow from the parts."""
    return codec_of(
        tokenizer,
        action_dims=actions.action_dims,
        action_bins=actions.bins,
        context_frames=setting.context_frames,
        horizon=setting.horizon,
        shared_action_ids=setting.shared_action_ids,
    )
