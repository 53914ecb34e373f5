"""Read RLDS: robot episodes as TensorFlow Datasets writes them (Open X-Embodiment, Bridge, DROID).

dataset_info.json lists the splits and their shards, features.json the tree of features; a shard is
a TFRecord file, a record is one episode, and its steps are flattened to `steps/<key>` lists. A step
is (observation, action taken at it), so actions need no shift. An action that is a dict of keys is
concatenated in alphabetical order, as TensorFlow Datasets iterates, and so are states, which are
the observations in floating point. The files do not state a frame rate: it is looked up by the
dataset's name. Left out: other file formats than tfrecord, encoded tensors, nested sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vidwm.data.clip import Episode, check_span
from vidwm.data.images import channels_first, decode_images
from vidwm.data.reading import build_episode, choose_camera, inside, read_json
from vidwm.data.states import as_states, join_states, state_names
from vidwm.data.tfexample import parse_example, read_bytes, read_numbers
from vidwm.data.tfrecord import Record, damaged, index_records, read_record
from vidwm.errors import UserError

FPS_BY_NAME = {"bridge": 5.0, "fractal": 3.0}  # name prefix -> frames per second
DEFAULT_FPS = 10.0
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
OBSERVATION, ACTION = "steps/observation/", "steps/action"


@dataclass(frozen=True, slots=True)
class _Place:
    shard: Path
    record: Record


class RLDSDataset:
    """An `EpisodeDataset` over one split of an RLDS folder (<name>/<version>/).

    `camera` is an image key under steps/observation; None takes the alphabetically first. `split`
    None takes "train", or the first split listed. `fps` comes from a table of two names (bridge*:
    5, fractal*: 3) and is otherwise 10: it only sets the speed of videos written.
    """

    format = "rlds"

    def __init__(
        self, path: str | Path, *, camera: str | None = None, split: str | None = None
    ) -> None:
        self.path = Path(path)
        self._info_file = self.path / "dataset_info.json"
        self._features_file = self.path / "features.json"
        info = read_json(self._info_file)
        try:
            leaves = dict(_step_leaves(read_json(self._features_file)))
            self._action_sizes = {key: _size(leaves[key]) for key in sorted(_action_keys(leaves))}
            self.cameras = tuple(sorted(_camera_keys(leaves)))
            self._state_sizes = as_states(dict(_state_sizes(leaves)))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self._features_file} lacks or misstates {error}; expected the features of an "
                f"RLDS dataset with fixed-size actions."
            ) from error
        if not self._action_sizes:
            raise UserError(
                f"{self._features_file} lists no numeric {ACTION}; vidwm needs actions."
            )
        self.camera = choose_camera(self.cameras, camera, where=self._features_file)
        self._task_key = next((k for k in leaves if k.endswith("language_instruction")), "")
        self.action_names = tuple(
            f"{key.removeprefix('steps/').replace('/', '_')}_{dim}"
            for key, size in self._action_sizes.items()
            for dim in range(size)
        )
        self.state_names = state_names(self._state_sizes)
        name = str(info.get("name", ""))
        rates = [rate for prefix, rate in FPS_BY_NAME.items() if name.startswith(prefix)]
        self.fps = rates[0] if rates else DEFAULT_FPS
        self._places: list[_Place] = []
        self.episode_ids: Sequence[str] = []
        self.lengths: Sequence[int] = []
        self._index(info, name, split)

    def __len__(self) -> int:
        return len(self._places)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self.span(index, 0, self.lengths[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of an episode with their actions; no other image is decoded."""
        place, length = self._places[index], self.lengths[index]
        check_span(start, stop, length)
        source = f"{place.shard}, record {self.episode_ids[index]}"
        record = read_record(place.shard, place.record)
        try:
            features = parse_example(record)
            actions = [
                read_numbers(features[key]).astype(np.float32).reshape(length, size)
                for key, size in self._action_sizes.items()
            ]
            images = read_bytes(features[OBSERVATION + self.camera])
            tasks = read_bytes(features[self._task_key]) if self._task_key in features else []
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{source}: the episode does not match features.json ({error}); copy the file "
                f"again."
            ) from error
        if len(images) != length:
            raise UserError(
                f"{source}: {len(images)} images of camera {self.camera!r} for {length} actions; "
                f"expected one a step."
            )
        return build_episode(
            source,
            id=self.episode_ids[index],
            frames=channels_first(decode_images(images[start:stop], source=source, first=start)),
            actions=np.concatenate(actions, axis=1)[start:stop],
            fps=self.fps,
            task=bytes(tasks[0]).decode(errors="replace") if tasks else "",
        )

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) float32 of an episode, S `state_names`; UserError as `episode`."""
        place = self._places[index]
        source = f"{place.shard}, record {self.episode_ids[index]}"
        record = read_record(place.shard, place.record)
        try:
            features = parse_example(record)
            found = {
                key: read_numbers(features[OBSERVATION + key]).reshape(-1, size)
                for key, size in self._state_sizes.items()
                if OBSERVATION + key in features
            }
        except ValueError as error:
            raise UserError(f"{source}: the states are not readable ({error}).") from error
        return join_states(found.get, self._state_sizes, self.lengths[index], source)

    def _index(self, info: dict[str, Any], name: str, split: str | None) -> None:
        """One pass over the shards: where each episode lies and how many steps it has."""
        chosen, counts, template = _choose_split(self._info_file, info, split)
        ids, lengths = list[str](), list[int]()
        for shard, count in enumerate(counts):
            file = self._shard_file(template, name, chosen, shard, len(counts))
            before = len(ids)
            for record, payload in index_records(file):
                ids.append(f"{chosen}-{shard:05d}-{len(ids) - before:05d}")
                lengths.append(self._count_steps(payload, file, record))
                self._places.append(_Place(file, record))
            if len(ids) - before != count:
                raise UserError(
                    f"Record file {file} holds {len(ids) - before} episodes, but "
                    f"{self._info_file.name} says {count}; the file is incomplete."
                )
        if not ids:
            raise UserError(f"{self.path}: split {chosen!r} holds no episode.")
        self.episode_ids, self.lengths = ids, lengths

    def _shard_file(self, template: str, name: str, split: str, shard: int, shards: int) -> Path:
        fields = {
            "DATASET": name,
            "SPLIT": split,
            "FILEFORMAT": "tfrecord",
            "SHARD_INDEX": f"{shard:05d}",
            "NUM_SHARDS": f"{shards:05d}",
            "SHARD_X_OF_Y": f"{shard:05d}-of-{shards:05d}",
        }
        for key, value in fields.items():
            template = template.replace("{" + key + "}", value)
        return inside(self.path, template, stated_in=self._info_file)

    def _count_steps(self, payload: memoryview, file: Path, record: Record) -> int:
        key, size = next(iter(self._action_sizes.items()))
        try:
            numbers = len(read_numbers(parse_example(payload)[key]))
        except (KeyError, ValueError) as error:
            raise damaged(file, record.offset, f"no feature {key!r} is read ({error})") from error
        if numbers == 0 or numbers % size:
            raise damaged(file, record.offset, f"{numbers} numbers under {key!r}, {size} a step")
        return numbers // size


def find_rlds(path: Path) -> list[Path]:
    """The RLDS folders at `path` or one or two folders below it (<name>/<version>/)."""
    for pattern in ("dataset_info.json", "*/dataset_info.json", "*/*/dataset_info.json"):
        folders = sorted(file.parent for file in path.glob(pattern))
        found = [folder for folder in folders if (folder / "features.json").is_file()]
        if found:
            return found
    return []


def _choose_split(
    file: Path, info: dict[str, Any], split: str | None
) -> tuple[str, list[int], str]:
    """Name, episodes in each shard, and file name template of a split."""
    try:
        splits = {str(listed["name"]): listed for listed in info["splits"]}
        counts = {name: [int(n) for n in splits[name]["shardLengths"]] for name in splits}
        templates = {name: splits[name].get("filepathTemplate") for name in splits}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} lacks or misstates {error}; expected splits with shardLengths."
        ) from error
    chosen = split or ("train" if "train" in splits else next(iter(splits), "train"))
    if chosen not in splits:
        raise UserError(f"{file} has no split {chosen!r}; expected one of {', '.join(splits)}.")
    file_format = info.get("fileFormat", "tfrecord")
    if file_format != "tfrecord":
        raise UserError(f"{file} says fileFormat {file_format!r}; only 'tfrecord' is read.")
    return chosen, counts[chosen], str(templates[chosen] or DEFAULT_TEMPLATE)


def _step_leaves(features: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    return _leaves("steps", steps)


def _leaves(name: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(flattened key, description) of every feature that holds values."""
    if "featuresDict" not in node:
        yield name, node
        return
    for key, child in node["featuresDict"]["features"].items():
        yield from _leaves(f"{name}/{key}", child)


def _action_keys(leaves: dict[str, dict[str, Any]]) -> Iterator[str]:
    for key, leaf in leaves.items():
        under_action = key == ACTION or key.startswith(ACTION + "/")
        if under_action and "tensor" in leaf and leaf["tensor"]["dtype"] != "string":
            yield key


def _state_sizes(leaves: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """Observations that are numbers, and how many a step; integers are counters and flags."""
    for key, leaf in leaves.items():
        tensor = leaf.get("tensor", {})
        if key.startswith(OBSERVATION) and str(tensor.get("dtype")).startswith("float"):
            with suppress(ValueError, LookupError, TypeError):  # not of a fixed size
                yield key.removeprefix(OBSERVATION), _size(leaf)


def _camera_keys(leaves: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Keys of colour images; depth is one channel, or not uint8."""
    for key, leaf in leaves.items():
        if key.startswith(OBSERVATION) and "image" in leaf:
            dimensions = leaf["image"]["shape"].get("dimensions", ["3"])
            if str(dimensions[-1]) == "3" and leaf["image"].get("dtype", "uint8") == "uint8":
                yield key.removeprefix(OBSERVATION)


def _size(leaf: dict[str, Any]) -> int:
    """Numbers a step of a tensor feature."""
    tensor = leaf["tensor"]
    size = prod(int(dimension) for dimension in tensor["shape"].get("dimensions", []))
    if size < 1 or tensor.get("encoding", "none") != "none":
        raise ValueError("an action of changing size or with an encoding")
    return size
