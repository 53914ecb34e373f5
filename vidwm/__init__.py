"""vidwm: video world models of robots, post-trained with reinforcement learning.

The public names load what they need on first use, so that `import vidwm` costs nothing:
`WorldModel`, `open_dataset`, `evaluate`, and `rollout`, the package that draws futures.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "WorldModel": "vidwm.world_model.world_model",
    "evaluate": "vidwm.evaluation.evaluate",
    "open_dataset": "vidwm.data.datasets",
}

__all__ = ["WorldModel", "evaluate", "open_dataset", "rollout"]


def __getattr__(name: str) -> Any:
    if name == "rollout":
        # The package itself: importing it sets `vidwm.rollout`, so no function can own that name.
        return importlib.import_module("vidwm.rollout")
    if name not in _HOMES:
        raise AttributeError(f"module 'vidwm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
