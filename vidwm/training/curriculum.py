"""A curriculum over the horizon: few predicted frames at first, all of them in the end.

The first predicted frame follows true frames alone and is the easiest; later ones build on it.
Short sequences are also cheaper, so early steps cost less.
"""

from __future__ import annotations

import dataclasses

from vidwm.errors import UserError
from vidwm.world_model.layout import Layout
from vidwm.world_model.world_model import WorldModel


def horizon_at(step: int, growth: int, horizon: int) -> int:
    """Predicted frames in step `step` (from 0): from 1 on, one more every `growth` / horizon steps.

    From step `growth` on it is `horizon`, and from the start where growth is 0.
    """
    return horizon if step >= growth else 1 + step * horizon // growth


def trained_layout(model: WorldModel, horizon: int) -> Layout:
    """The model's layout with `horizon` frames (0: all); UserError if it was trained for fewer."""
    if horizon > model.layout.horizon:
        raise UserError(
            f"horizon must be at most the model's {model.layout.horizon}, got {horizon}; "
            f"pretrain a model with a longer one."
        )
    return dataclasses.replace(model.layout, horizon=horizon or model.layout.horizon)
