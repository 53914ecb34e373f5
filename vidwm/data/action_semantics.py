"""What an action row means to a model: which rows are read, and how they become one per model step.

A reader gives `actions[t]`, what was recorded between frame t and t + 1. On the way to a model rows
may become differences, move to the frame they belong to, and be put together over the frames that
frame skip leaves out. Commands such as a gripper's or one-hot dimensions ("discrete" ones) are left
out of differences and sums. All this is saved with the model, so that new data mean the same to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vidwm.errors import UserError

Form = Literal["recorded", "delta", "state", "state_delta"]
Skipped = Literal["concatenate", "sum", "last"]

FEW_VALUES = 8  # a dimension with no more of them is discrete
LOOKED_AT = 10_000  # rows, which is plenty to find more


@dataclass(frozen=True, kw_only=True)
class ActionSemantics:
    """form: the recorded rows, the states reached by them, or the differences of either from row to
    row; shift: rows to move them up by; skipped: how the k rows of a step with frame skip k become
    one; discrete: dimensions (from 0) that are neither subtracted nor added: a step has their last.
    """

    form: Form = "recorded"
    shift: int = 0
    skipped: Skipped = "concatenate"
    discrete: tuple[int, ...] = ()

    def apply(self, rows: np.ndarray, before: np.ndarray, frame_skip: int) -> np.ndarray:
        """Rows (T, A) of an episode -> (T, A'), where row t is what a model step from frame t does.

        `before` (A,) is what the first row is subtracted from. Rows past either end repeat the one
        at the end. A' is A * frame_skip where rows are concatenated, in the order they were taken.
        """
        if self.form.endswith("delta"):
            rows = self._differences(rows, before)
        last = len(rows) - 1
        starts = np.arange(len(rows)) + self.shift
        places = np.clip(starts[:, None] + np.arange(frame_skip), 0, last)
        steps: np.ndarray = rows[places]  # (T, k, A)
        if self.skipped == "concatenate":
            return steps.reshape(len(rows), -1)
        found: np.ndarray = steps[:, -1].copy()
        if self.skipped == "sum":
            added = self._continuous(rows.shape[1])
            found[:, added] = steps[:, :, added].sum(axis=1)
        return found

    def margins(self, frame_skip: int) -> tuple[int, int]:
        """How many rows before and after it a row of `apply` depends on."""
        before = max(0, -self.shift) + self.form.endswith("delta")
        return before, max(0, self.shift) + frame_skip - 1

    def names(self, names: Sequence[str], frame_skip: int) -> tuple[str, ...]:
        """Of the A' dimensions, given those of the A."""
        if self.skipped != "concatenate" or frame_skip == 1:
            return tuple(names)
        return tuple(f"{name}.{i}" for i in range(frame_skip) for name in names)

    def discrete_after(self, num_dims: int, frame_skip: int) -> tuple[int, ...]:
        """Which of the A' dimensions are discrete, given A."""
        repeats = frame_skip if self.skipped == "concatenate" else 1
        return tuple(d + i * num_dims for i in range(repeats) for d in self.discrete)

    def _differences(self, rows: np.ndarray, before: np.ndarray) -> np.ndarray:
        found: np.ndarray = rows.copy()
        moving = self._continuous(rows.shape[1])
        found[:, moving] = np.diff(rows[:, moving], axis=0, prepend=before[None, moving])
        return found

    def _continuous(self, num_dims: int) -> list[int]:
        return [dim for dim in range(num_dims) if dim not in self.discrete]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ActionSemantics:
        """What `dataclasses.asdict` made of one; UserError when it is of another form."""
        try:
            return cls(**{**values, "discrete": tuple(values["discrete"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"Action semantics are of no known form: {error}.") from error


def few_valued(rows: np.ndarray) -> tuple[int, ...]:
    """Dimensions of rows (M, A) with at most `FEW_VALUES` values, each four times on average."""
    seen = rows[:: -(-len(rows) // LOOKED_AT)]
    counts = [len(np.unique(column)) for column in seen.T]
    return tuple(d for d, n in enumerate(counts) if n <= min(FEW_VALUES, len(seen) // 4))


def numbered(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """Places of the wanted names; UserError when one is not there."""
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(
            f"There is no action dimension {unknown[0]!r}; the names are {', '.join(names)}."
        )
    return tuple(sorted({names.index(name) for name in wanted}))
