"""How an exported model was trained, read from the run folder that it lies in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vidwm.errors import UserError


def training_section(model: Path) -> str:
    """Data, steps, seed, commit and held-out scores of run/checkpoints/<step>/model, as Markdown.

    Nothing where the folder lies in no run.
    """
    checkpoint = model.resolve().parent
    run = checkpoint.parent.parent
    history = run / "history.jsonl"
    in_run = checkpoint.parent.name == "checkpoints" and checkpoint.name.isdigit()
    if not in_run or not history.is_file():
        return ""
    step, start = int(checkpoint.name), _lines(history)[-1]
    config = start["config"]
    scores: dict[str, Any] = {}
    for line in _lines(run / "metrics.jsonl"):
        if line["step"] <= step:
            scores |= {name: value for name, value in line.items() if name.startswith("heldout_")}
    lines = [
        "## Training",
        "",
        f"- data: {Path(config['data']).name}",
        f"- {step} steps, batches of {config['batch_size']}, seed {start['seed']}",
        f"- vidwm {start['vidwm']}, commit {start['commit'] or 'unknown'}",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in scores.items()),
    ]
    return "\n".join(lines)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); export a copy outside of its run.") from None
