"""Robot states of formats that keep them in several arrays: which arrays, and their rows as one.

A reader finds the numeric arrays with a row a frame beside its images, name: numbers a row, and
`state_names` and `states` of a dataset are these side by side, in the order of their names. Arrays
wider than any robot, such as embeddings of the task's text, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vidwm.errors import UserError

MAX_SIZE = 128  # numbers a row; a humanoid's state has fewer

Sizes = Mapping[str, int]


def as_states(sizes: Sizes) -> dict[str, int]:
    """Those that can be states, in the order of their names."""
    return {name: sizes[name] for name in sorted(sizes) if 1 <= sizes[name] <= MAX_SIZE}


def state_names(sizes: Sizes) -> tuple[str, ...]:
    """One name a dimension: qpos_0, qpos_1, ...; an array of one dimension has its own."""
    return tuple(
        name if size == 1 else f"{name}_{dim}"
        for name, size in sizes.items()
        for dim in range(size)
    )


def join_states(
    read: Callable[[str], np.ndarray | None], sizes: Sizes, length: int, source: str
) -> np.ndarray:
    """States (T, S) float32 from read(name), each (T, size), or (T,) where size is 1.

    UserError where they are not so.
    """
    columns = []
    for name, size in sizes.items():
        rows = read(name)
        allowed = ((length, size), (length,)) if size == 1 else ((length, size),)
        if rows is None or rows.shape not in allowed or rows.dtype.kind not in "fiub":
            found = "absent" if rows is None else f"{rows.shape} {rows.dtype}"
            raise UserError(
                f"{source}: the states {name!r} are {found}; expected numbers ({length}, {size}), "
                f"as in the first episode."
            )
        with np.errstate(over="ignore"):
            columns.append(rows.reshape(length, size).astype(np.float32))
    return np.concatenate(columns, axis=1)
