"""Pack a trained world model for `assets/`: half-precision weights and a card that says all.

The card's numbers are read from the run folders and the evaluation report, none is typed by hand.
A run is called as its config is; where one went on from another, all are named, in order.

    python -m tools.make_tiny --tokenizer_run runs/tokenizer_sample \
        --pretrain_run runs/pretrain_sample --output assets/tiny
    vidwm evaluate --config configs/evaluate_tiny.yaml
    python -m tools.make_tiny --report runs/evaluate_tiny/report.md --output assets/tiny
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from vidwm.world_model.world_model import WorldModel

HEADER = """---
library_name: vidwm
license: mit
tags: [robotics, world-model, video-prediction]
---
# Tiny world model

Tokenizer and base transformer (maximum likelihood, not post-trained) of the bundled sample dataset,
made by this project. Open it with `vidwm.WorldModel.from_pretrained("{output}")`.
"""

TOKENIZER_SCORES = [
    f"heldout_{part}{score}"
    for score in ("psnr", "mae", "perceptual", "perplexity")
    for part in ("", "context_")
]


def last_values(run: Path) -> dict[str, Any]:
    """The last logged value of every scalar of a run."""
    values: dict[str, Any] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values |= json.loads(line)
    return values


def describe(run: Path, stage: str, shown: list[str]) -> str:
    """A section of the card: command, steps, time, seed, commit and held-out values of a run."""
    start = json.loads((run / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    values = last_values(run)
    lines = [
        f"## {stage.capitalize()}",
        f"`vidwm {stage} --config configs/{run.name}.yaml`",
        "",
        f"- {values['step']} steps of {start['config']['batch_size']}, {values['time'] / 60:.0f} "
        f"minutes on a machine shared with other work, seed {start['seed']}, commit "
        f"`{(start['commit'] or 'unknown')[:12]}`",
        *(f"- {name.replace('_', ' ')}: {values[name]:.4g}" for name in shown if name in values),
    ]
    return "\n".join(lines)


def pack(tokenizer_run: Path, pretrain_runs: list[Path], output: Path) -> None:
    """Write the model of the last run and its card into a new folder."""
    card = "\n\n".join(
        [
            HEADER.format(output=output).rstrip(),
            describe(tokenizer_run, "tokenizer", TOKENIZER_SCORES),
            *(describe(run, "pretrain", ["heldout_loss", "loss"]) for run in pretrain_runs),
        ]
    )
    model = WorldModel.from_pretrained(pretrain_runs[-1] / "checkpoints/last/model")
    model.save_pretrained(output, card=card + "\n", dtype=torch.float16)


def append_report(report: Path, output: Path) -> None:
    """Put the held-out table behind the card."""
    card = (output / "README.md").read_text(encoding="utf-8").split("\n## Held-out")[0]
    text = report.read_text(encoding="utf-8").replace("\n#", "\n##").lstrip("#").strip()
    (output / "README.md").write_text(f"{card.rstrip()}\n\n## Held-out\n\n{text}\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer_run", type=Path)
    parser.add_argument(
        "--pretrain_run", type=Path, nargs="+", help="each goes on from the one before"
    )
    parser.add_argument("--report", type=Path, help="report.md of `vidwm evaluate`, to append")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.report:
        append_report(args.report, args.output)
    elif args.output.exists():
        sys.exit(f"make_tiny: error: {args.output} exists; remove it first.")
    else:
        pack(args.tokenizer_run, args.pretrain_run, args.output)


if __name__ == "__main__":
    main()
