"""The one exception that means "the user can mend this".

Raised wherever input from outside is wrong; `vidwm.cli` prints its message and exits with code 2.
A message is one sentence: what was wrong, where, what was expected, what to do.
"""


class UserError(ValueError):
    """A mistake in a path, file, configuration key or value that the user can correct."""


def first_line(error: Exception) -> str:
    """What a library said, without the lines of context that follow it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
