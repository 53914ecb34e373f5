"""Which cameras are read, and how several are put together, told by one word.

`a` is one camera; `a,b` two views, each an episode of its own ("<episode>@a"); `a+b` both tiled
into one frame. So `a+b,c` has two views, one of them tiled.
"""

from __future__ import annotations

from collections.abc import Callable

from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined, Part, recordings_of
from vidwm.data.tiled import Tiled
from vidwm.errors import UserError

VIEWS, TILES = ",", "+"


def open_cameras(
    camera: str | None, open_one: Callable[[str | None], EpisodeDataset]
) -> EpisodeDataset:
    """The dataset as `camera` says; open_one opens it with a single camera (None: the reader's).

    UserError when `camera` names a camera twice or none where there should be one.
    """
    if camera is None or not any(sign in camera for sign in (VIEWS, TILES)):
        return open_one(camera)
    views = [view.split(TILES) for view in camera.split(VIEWS)]
    names = [name for view in views for name in view]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"--camera {camera} must name every camera once: a{VIEWS}b reads two views, "
            f"a{TILES}b tiles them into one frame."
        )
    datasets = [
        Tiled([open_one(name) for name in view]) if len(view) > 1 else open_one(view[0])
        for view in views
    ]
    if len(datasets) == 1:
        return datasets[0]
    return Joined(
        datasets[0].path,
        [
            Part(
                name=name,
                dataset=dataset,
                episode_ids=[f"{episode}@{name}" for episode in dataset.episode_ids],
                recordings=recordings_of(dataset),
            )
            for name, dataset in zip(camera.split(VIEWS), datasets, strict=True)
        ],
    )
