"""What a resumed adaptation (`vidwm finetune --from --resume`) may not change.

The settings that made the start, ever; those of a stage, once a later one has a checkpoint, for its
model would be of one stage as it was and of another as it is now. Paths are compared as they were
when the start was made, wherever the command is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidwm.adapt_config import AdaptOptions
from vidwm.config_loader import load_config
from vidwm.data_config import RecordingOptions
from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.options import key
from vidwm.training.checkpoint import list_checkpoints
from vidwm.training.run_folder import RunFolder

STAGES = ("tokenizer", "pretrain", "finetune")
ADAPT = [spec.name for spec in dataclasses.fields(AdaptOptions)]
# Settings of the stages before the last alone, by the name they begin with.
OF_STAGE = {stage: [n for n in ADAPT if n.startswith(f"{stage}_")] for stage in STAGES[:-1]}
# Settings that the start is made by: which data, what its actions are, and the shape of the model.
OF_START = [
    *(spec.name for spec in dataclasses.fields(RecordingOptions)),
    *(name for name in ADAPT if not name.startswith(tuple(f"{stage}_" for stage in OF_STAGE))),
    *("episodes", "resize", "horizon"),
]


def with_full_paths(config: FinetuneConfig) -> FinetuneConfig:
    """The same with paths of the start that do not depend on where the command is run.

    What is not there, such as a dataset of the Hub, stays as it is.
    """
    paths = {name: getattr(config, name) for name in OF_START}
    full: dict[str, Any] = {
        name: path.absolute()
        for name, path in paths.items()
        if isinstance(path, Path) and path.exists()
    }
    return dataclasses.replace(config, **full)


def check_resumed(config: FinetuneConfig, start: Path) -> None:
    """UserError when there is no start, or settings changed that what is there was made by.

    config: `with_full_paths`, as the one that is compared with was when it was written.
    """
    if not start.is_dir():
        raise UserError(
            f"There is no {start} to resume from; check --output_dir, or start anew without "
            f"--resume in a new or empty folder."
        )
    file = config.output_dir / "config.yaml"
    fixed = {start: OF_START}
    for number in reversed(range(1, len(STAGES))):
        run = RunFolder(config.output_dir / STAGES[number])
        if list_checkpoints(run.checkpoints):
            fixed[run.path] = [name for stage in STAGES[:number] for name in OF_STAGE[stage]]
    made_by = load_config(FinetuneConfig, file)
    for folder, names in fixed.items():
        if other := _differences(made_by, config, names):
            raise UserError(
                f"{folder} was made with {', '.join(other)}: resume with the settings of {file}, "
                f"or adapt anew in another --output_dir."
            )


def _differences(
    made_by: FinetuneConfig, config: FinetuneConfig, names: Sequence[str]
) -> list[str]:
    pairs = {key(name): (getattr(made_by, name), getattr(config, name)) for name in names}
    return [
        f"{name} = {before} (now {now})"
        for name, (before, now) in pairs.items()
        if _in_full(before) != _in_full(now)
    ]


def _in_full(value: Any) -> Any:
    return value.resolve() if isinstance(value, Path) and value.is_absolute() else value
