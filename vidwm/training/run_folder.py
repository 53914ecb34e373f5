"""The run folder: what a run leaves on disk, and the rule that none of it is overwritten.

config.yaml      the resolved configuration, as --config reads it
history.jsonl    a line for each start and resume: when, version, commit, machine, precision, seed,
                 command, config
metrics.jsonl  tensorboard/  videos/      written by `tracker.py`
checkpoints/     written by `checkpoint.py`
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vidwm.config import TrainOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.options import key
from vidwm.provenance import git_commit, machine, version
from vidwm.training.checkpoint import list_checkpoints
from vidwm.training.runtime import pick_precision


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def record_start(self, step: int, options: TrainOptions) -> None:
        """Write config.yaml and add this start to history.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        config = _plain(options)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, encoding="utf-8")
        device = pick_device(options.device)
        entry = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "from_step": step,
            "seed": options.seed,
            "vidwm": version(),
            "commit": git_commit(),
            "machine": machine(),
            "device": str(device),
            "precision": pick_precision(options.precision, device),
            "command": sys.argv,
            "config": config,
        }
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def open_run(output_dir: str | Path, *, resume: bool) -> RunFolder:
    """Check a run folder before any work is done; creates nothing.

    UserError when a new run would land on something, or there is nothing to resume.
    """
    path = Path(output_dir)
    run = RunFolder(path)
    if resume and not list_checkpoints(run.checkpoints):
        raise UserError(
            f"There is no checkpoint in {run.checkpoints} to resume from; "
            f"check --output_dir, or start anew without --resume in a new or empty folder."
        )
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; choose a folder as --output_dir.")
    if not resume and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"{path} exists and is not empty; "
            f"choose another --output_dir or continue it with --resume."
        )
    return run


def _plain(options: TrainOptions) -> dict[str, Any]:
    """The options as YAML and JSON hold them; without `resume`, which is no part of the recipe."""
    config = {key(spec.name): getattr(options, spec.name) for spec in fields(options)}
    del config["resume"]
    for name, value in config.items():
        if isinstance(value, Path):
            config[name] = str(value)
        elif isinstance(value, tuple):
            config[name] = list(value)
    return config
