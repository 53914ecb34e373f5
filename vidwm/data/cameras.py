"""Which cameras are read, and how several are put together, told by one word.

`a` is one camera; `a,b` two views, each an episode of its own ("<episode>@a"); `a+b` both tiled
into one frame. So `a+b,c` has two views, one of them tiled. A cache of views has a folder for each
of them, view-0, view-1 and so on, and beside them their names, views.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vidwm.data.cache_folder import INDEX
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined, Part, recordings_of
from vidwm.data.reading import read_any_json
from vidwm.data.tiled import Tiled
from vidwm.errors import UserError

VIEWS, TILES = ",", "+"
VIEWS_INDEX = "views.json"

OpenOne = Callable[[Path, str | None], EpisodeDataset]


def open_cameras(data: Path, camera: str | None, open_one: OpenOne) -> EpisodeDataset:
    """The dataset as `camera` says; open_one opens it with a single camera (None: the reader's).

    UserError when `camera` names a camera twice or none where there should be one, or when a cache
    is of other views.
    """
    if (data / INDEX).is_file():  # a cache of tiles is of the one camera that it names
        return open_one(data, camera)
    if (data / VIEWS_INDEX).is_file():
        return _cached_views(data, camera, open_one)
    if camera is None or not any(sign in camera for sign in (VIEWS, TILES)):
        return open_one(data, camera)
    views = [view.split(TILES) for view in camera.split(VIEWS)]
    names = [name for view in views for name in view]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"--camera {camera} must name every camera once: a{VIEWS}b reads two views, "
            f"a{TILES}b tiles them into one frame."
        )
    datasets = [
        Tiled([open_one(data, n) for n in view]) if len(view) > 1 else open_one(data, view[0])
        for view in views
    ]
    return datasets[0] if len(datasets) == 1 else _joined(camera.split(VIEWS), datasets)


def view_folder(cache: Path, number: int) -> Path:
    """Where a cache of views has the view of that number."""
    return cache / f"view-{number}"


def _cached_views(data: Path, camera: str | None, open_one: OpenOne) -> Joined:
    names = read_any_json(data / VIEWS_INDEX)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{data / VIEWS_INDEX} must be a JSON list of views; make the cache anew.")
    asked = names if camera is None else camera.split(VIEWS)
    if len(asked) != len(names):
        raise UserError(
            f"{data} is a cache of the views {VIEWS.join(names)}, not of {camera}; leave camera "
            f"out, or read one of the folders in it, such as {view_folder(data, 0)}."
        )
    views = [
        open_one(view_folder(data, number), None if camera is None else name)
        for number, name in enumerate(asked)
    ]
    return _joined(asked, views)


def _joined(names: Sequence[str], datasets: Sequence[EpisodeDataset]) -> Joined:
    return Joined(
        datasets[0].path,
        [
            Part(
                name=name,
                dataset=dataset,
                episode_ids=[f"{episode}@{name}" for episode in dataset.episode_ids],
                recordings=recordings_of(dataset),
            )
            for name, dataset in zip(names, datasets, strict=True)
        ],
    )
