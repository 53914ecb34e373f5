"""A curriculum over the horizon: few predicted frames at first, all of them in the end.

The first predicted frame follows true frames alone and is the easiest; later ones build on it.
Short sequences are also cheaper, so early steps cost less.
"""

from __future__ import annotations


def horizon_at(step: int, growth: int, horizon: int) -> int:
    """Predicted frames in step `step` (from 0): from 1 on, one more every `growth` / horizon steps.

    From step `growth` on it is `horizon`, and from the start where growth is 0.
    """
    return horizon if step >= growth else 1 + step * horizon // growth
