"""The header of a .npy array, read without the array: nothing is allocated on its word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from vidwm.errors import UserError

READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class Header:
    """Shape and dtype of an array; an object dtype is a pickle, which nothing here opens."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """The size of its values, in Python's integers, which do not overflow."""
        return int(np.prod([self.dtype.itemsize, *self.shape], dtype=object))


def read_header(stream: IO[bytes]) -> Header:
    """ValueError if it is none; whatever the stream raises besides."""
    try:
        shape, _, dtype = READ_HEADER[np.lib.format.read_magic(stream)](stream)
    except (TokenError, SyntaxError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f"its header is damaged ({e})") from e
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return Header(shape, dtype)


def read_npy(file: Path) -> np.ndarray:
    """The array in a .npy file of numbers; UserError names the file if it is anything else."""
    try:
        with file.open("rb") as stream:
            header = read_header(stream)
            left = file.stat().st_size - stream.tell()
        if header.dtype.hasobject or header.num_bytes > left:
            raise ValueError("it holds a pickle or is shorter than it says")
        return np.asarray(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; copy the missing file into the dataset.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{file} is no readable npy file of numbers ({type(error).__name__}: {error}); copy it "
            f"again or remove it."
        ) from error
