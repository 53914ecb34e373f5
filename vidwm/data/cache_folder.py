"""The folder of a cache: what it is of, in which file an episode lies, and what is still missing.

cache.json                  `Contents`: kind, size, episodes, and what tells that it is out of date
shard-00000.safetensors     `frames` (R, 3, H, W) uint8 or `tokens` (R, N) int32, and `actions`
                            (R, A) float32: R rows, those of some consecutive episodes; tokens of
                            further variants are `tokens_1`, `tokens_2`, ...

Which episodes share a file follows from their lengths, and every file appears whole or not at all.
So any number of processes and machines fill a folder together without a lock, and what is missing
after a kill is seen by looking.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from vidwm.data.clip import EpisodeDataset
from vidwm.data.reading import read_json
from vidwm.data_config import VariantOptions
from vidwm.errors import UserError

FORMAT = 1
INDEX = "cache.json"
SHARD_FRAMES = 4096  # what a kill may cost to do again
SHARD_BYTES = 128 * 1024**2  # what a process holds in memory

# What makes a cache another one, in the words of an error. The rest follows from these.
TRAITS = {
    "format": "the format of this version",
    "kind": "frames or tokens",
    "data": "the recorded files",
    "camera": "the camera",
    "episode_ids": "the choice of episodes",
    "size": "the size of frames",
    "tokenizer": "the tokenizer",
    "vary": "the variants (--variants, --variant_seed and what varies them)",
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a cache holds, and what it was made from.

    size (H, W) in pixels. data and tokenizer are hashes of recorded files and of weights ("" for
    frames). all_episode_ids are those of the dataset the episodes were chosen from. `vary` says
    what the variants of an episode are, None where there is none but what was recorded.
    """

    kind: Literal["frames", "tokens"]
    source: str
    source_format: str
    data: str
    camera: str
    fps: float
    action_names: tuple[str, ...]
    episode_ids: tuple[str, ...]
    lengths: tuple[int, ...]
    all_episode_ids: tuple[str, ...]
    size: tuple[int, int]
    tokenizer: str = ""
    tokens_per_frame: int = 0
    vary: VariantOptions | None = None
    format: int = FORMAT

    @cached_property
    def key(self) -> str:
        """A name that no other cache has."""
        traits = [value for name in TRAITS if (value := getattr(self, name)) is not None]
        text = json.dumps([traits, self.lengths], default=dataclasses.asdict)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        """What the tensors of a file are called, variant by variant, leaving out the actions."""
        variants = self.vary.variants if self.vary else 1
        return [self.kind, *(f"{self.kind}_{variant}" for variant in range(1, variants))]

    @cached_property
    def files(self) -> list[range]:
        """The episodes of each file, in order."""
        frame = 3 * self.size[0] * self.size[1]
        row = 4 * self.tokens_per_frame if self.kind == "tokens" else frame
        most = max(1, min(SHARD_FRAMES, SHARD_BYTES // row) // len(self.names))
        files, first, rows = [], 0, 0
        for episode, length in enumerate(self.lengths):
            if rows and rows + length > most:
                files.append(range(first, episode))
                first, rows = episode, 0
            rows += length
        return [*files, range(first, len(self.lengths))]

    def differences(self, other: Contents) -> list[str]:
        """In words, what tells two caches apart."""
        return [
            words for name, words in TRAITS.items() if getattr(self, name) != getattr(other, name)
        ]


def contents_of(dataset: EpisodeDataset, **fields: Any) -> Contents:
    """What a cache of a dataset holds; fields: kind, size and the others a dataset cannot know."""
    return Contents(
        source=str(dataset.path.absolute()),
        source_format=dataset.format,
        data=state_of(dataset),
        camera=str(getattr(dataset, "camera", "")),
        fps=dataset.fps,
        action_names=tuple(dataset.action_names),
        episode_ids=tuple(dataset.episode_ids),
        lengths=tuple(int(length) for length in dataset.lengths),
        all_episode_ids=tuple(getattr(dataset, "all_episode_ids", dataset.episode_ids)),
        **fields,
    )


def state_of(dataset: EpisodeDataset) -> str:
    """A hash of the recorded files: names, sizes and times, or their commit on the Hub."""
    commit = getattr(dataset, "commit", None)
    if commit is not None:  # its files come as they are read, so a listing would change
        return str(commit)
    return _listing(dataset.path)


def out_of_date(contents: Contents) -> bool:
    """Whether the recordings have changed since; False if they cannot, or are not here."""
    source = Path(contents.source)
    return source.exists() and contents.data != source.name and contents.data != _listing(source)


def _listing(root: Path) -> str:
    """A hash of the names, sizes and times of the file, or of all files below the folder."""
    paths = [root]
    if root.is_dir():
        paths = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    files = []
    for path in paths:
        stat = os.stat(path)
        files.append((os.path.relpath(path, root.parent), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()


def begin(folder: Path, contents: Contents) -> None:
    """Make the folder one of these contents, or go on with it; UserError if it is another's."""
    if claim(folder, INDEX, json.dumps(dataclasses.asdict(contents), indent=1) + "\n"):
        return
    if changed := read_contents(folder).differences(contents):
        raise UserError(
            f"The cache {folder} is of other contents: {' and '.join(changed)} differ; remove it "
            f"or choose another folder."
        )


def claim(folder: Path, index: str, text: str) -> bool:
    """Make the folder with a file `index` of this text; False, and no change, if it has one.

    UserError if it holds anything else.
    """
    taken = folder.exists() and (
        not folder.is_dir() or any(_foreign(path, index) for path in folder.iterdir())
    )
    if (folder / index).exists():  # asked last: another machine may be beginning the same cache
        return False
    if taken:
        raise UserError(
            f"{folder} exists and is no token or frame cache; choose a new or empty folder."
        )
    put(folder / index, lambda path: path.write_text(text, encoding="utf-8"))
    return True


def read_contents(folder: Path) -> Contents:
    """What cache.json says; UserError if it is damaged or of another version."""
    path = folder / INDEX
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {values.get('format')!r}, this vidwm reads {FORMAT}; make the "
            f"cache anew with `vidwm data cache`."
        )
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        vary = VariantOptions(**values["vary"]) if values.get("vary") else None
        contents = Contents(**(values | lists | {"vary": vary}))
    except (TypeError, UserError):
        raise UserError(f"{path} does not describe a cache; make the cache anew.") from None
    counts = [*contents.size, *contents.lengths, contents.tokens_per_frame + 1]
    counts += [vary.variants] if vary else []
    names = [*contents.episode_ids, *contents.all_episode_ids, *contents.action_names]
    sound = (
        contents.kind in ("frames", "tokens")
        and len(contents.size) == 2
        and 0 < len(contents.lengths) == len(contents.episode_ids)
        and all(type(count) is int and count > 0 for count in counts)
        and all(isinstance(name, str) for name in names)
        and isinstance(contents.fps, (int, float))
        and contents.fps > 0
    )
    if not sound:
        raise UserError(f"{path} does not describe a cache; make the cache anew.")
    return contents


def shard_path(folder: Path, number: int) -> Path:
    """The file of that number."""
    return folder / f"shard-{number:05d}.safetensors"


def missing_files(folder: Path, numbers: Sequence[int]) -> list[int]:
    """Those of the files that are yet to be written."""
    found = set(os.listdir(folder))
    return [number for number in numbers if shard_path(folder, number).name not in found]


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file beside it, then give it its name, in one step.

    Others may do the same at the same time: they write the same bytes. UserError when the disk
    refuses.
    """
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with contextlib.suppress(FileNotFoundError):  # another process was first, and tidied up
            os.replace(partial, path)
        for leftover in path.parent.glob(f"{path.name}.*{_PARTIAL}"):  # of killed processes
            leftover.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        # safetensors: "Error ...: I/O error: No space left on device (os error 28)"
        wrapped = str(error).rpartition("I/O error: ")[2].partition(" (os error")[0]
        raise UserError(
            f"{path} cannot be written ({getattr(error, 'strerror', None) or wrapped}); mend that "
            f"and run the same command again: it goes on from the files that are there."
        ) from None


_PARTIAL = ".partial"


def _foreign(path: Path, index: str) -> bool:
    return not (path.name.startswith(index) and path.name.endswith(_PARTIAL))
