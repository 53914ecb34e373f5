"""The model card of an exported world model: what it predicts, and what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vidwm.world_model.world_model import WorldModel

HEAD = """---
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


def card_of(model: WorldModel, directory: Path, report: str) -> str:
    """The text of README.md; directory: where the model lies, in a run folder or not."""
    setting, (height, width) = model.setting, model.size
    count = setting.context_frames
    text = HEAD.format(
        horizon=setting.horizon,
        height=height,
        width=width,
        fps=setting.model_fps,
        context="1 frame" if count == 1 else f"{count} frames",
        actions=", ".join(setting.action_names),
        kind=model.codec.kind.replace("_", "-"),
        tokens=model.layout.tokens_per_frame,
    )
    parts = [text, _training(directory), f"## Held-out\n\n{report}" if report else ""]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _training(directory: Path) -> str:
    """How the run that the directory lies in (run/checkpoints/<step>/model) was started."""
    checkpoint = directory.resolve().parent
    history = checkpoint.parents[1] / "history.jsonl"
    if checkpoint.parent.name != "checkpoints" or not history.is_file():
        return ""
    step, start = int(checkpoint.name), _lines(history)[-1]
    config = start["config"]
    lines = [
        "## Training",
        "",
        f"- data: {Path(config['data']).name}",
        f"- steps: {step} of {config['batch_size']}, seed {start['seed']}",
        f"- vidwm {start['vidwm']}, commit {start['commit'] or 'unknown'}",
    ]
    scores: dict[str, Any] = {}
    for line in _lines(checkpoint.parents[1] / "metrics.jsonl"):
        if line["step"] <= step:
            scores |= {name: value for name, value in line.items() if name.startswith("heldout_")}
    lines += [f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in scores.items()]
    return "\n".join(lines)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
