"""What can be wrong with a video, in the same words whichever library finds it."""

from __future__ import annotations

from pathlib import Path

from vidwm.errors import UserError


class NoDecoder(UserError):
    """This library cannot decode the file; another one may."""


class DecodingFailed(Exception):
    """A library gave up on a file that it can decode by its kind: the file is damaged."""


def missing_frame(path: Path, index: int, start: int, count: int, rate: float) -> UserError:
    """The error to raise for a span with a hole, or past the end."""
    return UserError(
        f"Video {path} has no frame {index} (at {index / rate:.3f} s, {rate:g} frames per second), "
        f"but the episode needs frames {start} to {start + count - 1}; the file is incomplete or "
        f"unevenly timed."
    )


def repeated_frame(path: Path, index: int, rate: float) -> UserError:
    """The error to raise for two pictures that fall on one frame."""
    return UserError(
        f"Video {path} shows two frames as frame {index} at {rate:g} frames per second; its rate "
        f"is another one, or uneven: re-encode it at {rate:g}."
    )
