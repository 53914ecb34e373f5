"""What rollouts are timed on: a transformer, a prompt and the window that follows it.

rt1-single and rt1-multi have the sizes of the released RLVR-World models and random weights, `tiny`
is the bundled model on a held-out context of the bundled data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidwm.evaluation.sources import open_sources
from vidwm.finetune_config import FinetuneConfig
from vidwm.rollout.sampling import Sampling, random_states
from vidwm.rollout.window import Window
from vidwm.world_model.layout import Layout
from vidwm.world_model.presets import rt1_transformer
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A transformer, a prompt (1, P), and what follows it: frames with actions between."""

    name: str
    transformer: Transformer
    prompt: Tensor
    window: Window

    @property
    def new(self) -> int:
        return self.window.length


def rt1(name: str, vocab: int, prompt: int, frames: int, tokens: int, group: int) -> Shape:
    """A released RLVR-World size with random weights and a random prompt."""
    layout = Layout(
        tokens_per_frame=tokens,
        codebook_size=4375,
        action_dims=13,
        context_frames=1,
        horizon=frames,
        shared_action_ids=True,
    )
    torch.manual_seed(0)
    transformer = Transformer(rt1_transformer(vocab)).requires_grad_(False)
    window = _window(
        layout, torch.randint(0, 4375, (1, 2, tokens)), torch.zeros(1, frames - 1, 13), group
    )
    return Shape(
        name=name,
        transformer=transformer,
        prompt=torch.randint(0, 4375, (1, prompt)),
        window=window,
    )


def tiny(group: int) -> Shape:
    """The bundled model on a held-out context of the bundled data."""
    folder = ROOT / "assets" / "tiny"
    model = WorldModel.from_pretrained(folder)
    options = FinetuneConfig(data=ROOT / "assets/sample", model=folder, output_dir=Path("unused"))
    _, heldout = open_sources(options, model)
    assert heldout is not None
    batch = heldout.batch([len(heldout.windows) // 2])
    c, layout = model.setting.context_frames, model.layout
    context = model.context(batch.float_frames())
    bins = model.bins(batch.actions)
    window = _window(layout, context, layout.action_ids(bins[:, c : c + layout.horizon - 1]), group)
    return Shape(
        name="tiny",
        transformer=model.transformer.requires_grad_(False),
        prompt=layout.prompt(context, bins),
        window=window,
    )


def _window(layout: Layout, context: Tensor, actions: Tensor, group: int) -> Window:
    states = random_states(layout, torch.zeros(1).long(), group, Sampling(), layout.horizon, 0)
    return Window.after(layout, context, actions.long(), states)


SHAPES: dict[str, Callable[[int], Shape]] = {
    "rt1-single": lambda group: rt1("rt1-single", 4633, 1333, 1, 320, group),
    "rt1-multi": lambda group: rt1("rt1-multi", 9008, 1373, 7, 80, group),
    "tiny": tiny,
}


def cut(shape: Shape, positions: int) -> Shape:
    """The same with fewer tokens a frame, so that about `positions` are decoded."""
    layout, window = shape.window.layout, shape.window
    tokens = max(1, min(layout.tokens_per_frame, positions // window.frames - layout.action_dims))
    smaller = dataclasses.replace(layout, tokens_per_frame=tokens)
    return dataclasses.replace(
        shape,
        window=dataclasses.replace(
            window,
            layout=smaller,
            previous=window.previous[:, :tokens],
            states=window.states[..., :tokens],
        ),
    )


def moved(shape: Shape, device: torch.device, dtype: torch.dtype) -> Shape:
    """The same on a device."""
    tensors: dict[str, Any] = {
        field.name: value.to(device)
        for field in dataclasses.fields(shape.window)
        if isinstance(value := getattr(shape.window, field.name), Tensor)
    }
    return dataclasses.replace(
        shape,
        transformer=shape.transformer.to(device, dtype),
        prompt=shape.prompt.to(device),
        window=dataclasses.replace(shape.window, **tensors),
    )
