"""Datasets of the Hub: what is downloaded and when, with a folder in the Hub's place."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data import hub_dataset
from vidwm.data.cache import cached_tokens
from vidwm.data.cache_folder import contents_of, state_of
from vidwm.data.datasets import open_dataset
from vidwm.data.facts import states_of
from vidwm.data.hub_dataset import HubName, hub_name
from vidwm.data.selection import Selection
from vidwm.data.tiled import Tiled
from vidwm.errors import UserError

Recorded = tuple[Path, list[np.ndarray], list[np.ndarray]]
COMMIT = "0123abcd"
DATA = "data/chunk-000/file-000.parquet"
VIDEOS = [f"videos/observation.images.main/chunk-000/file-00{i}.mp4" for i in range(2)]


class FakeHub:
    """Copies from a folder into a cache as the Hub's library would; lists what was asked for."""

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.folder = source, cache / "datasets--owner--name/snapshots" / COMMIT
        self.asked: list[tuple[str, str | None, str]] = []

    def download_metadata(self, name: HubName) -> Path:
        self.asked.append((name.repository, name.revision, "meta"))
        if (self.source / "meta").exists():
            shutil.copytree(self.source / "meta", self.folder / "meta", dirs_exist_ok=True)
        return self.folder

    def download_file(self, name: HubName, file: str, folder: Path) -> None:
        assert folder == self.folder
        self.asked.append((name.repository, name.revision, file))
        blob = self.folder.parents[1] / "blobs" / file.replace("/", "-")
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(self.source / file, blob)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).symlink_to(blob)


@pytest.fixture()
def hub(lerobot: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(lerobot[0], tmp_path / "cache")
    monkeypatch.setattr(hub_dataset, "download_metadata", fake.download_metadata)
    monkeypatch.setattr(hub_dataset, "download_file", fake.download_file)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://datasets/lerobot/pusht", HubName("lerobot/pusht")),
        ("hf:/datasets/lerobot/pusht", HubName("lerobot/pusht")),  # after a Path
        ("hf://datasets/lerobot/pusht@v2.1", HubName("lerobot/pusht", "v2.1")),
        ("lerobot/pusht", HubName("lerobot/pusht")),
        ("assets/pusht", None),  # there is such a folder: a misspelled path
        ("here/set", None),
        ("episodes/a.npz", None),
        ("./lerobot/pusht", None),
        ("/lerobot/pusht", None),
        ("../pusht", None),
        ("a/b/c", None),
        ("pusht", None),
    ],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: Any) -> None:
    for folder in ("assets", "here/set"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == name
    if not text.startswith("hf"):
        assert hub_name(Path(text)) in (name, HubName("lerobot/pusht"))


@pytest.mark.parametrize(
    "text", ["hf://lerobot/pusht", "hf://datasets/pusht", "hf://datasets/a/b/c"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"no address of the Hub's; expected hf://datasets/"):
        open_dataset(text)


def test_only_what_is_read_is_downloaded(hub: FakeHub, lerobot: Recorded) -> None:
    dataset = open_dataset("hf://datasets/owner/name@v3.0", split="train")
    dataset = pickle.loads(pickle.dumps(dataset))  # as on the way to a worker
    assert hub.asked == [("owner/name", "v3.0", "meta")]
    assert list(dataset.lengths) == [6, 7, 8, 9, 10]
    for index, files in ((4, [DATA, VIDEOS[1]]), (3, []), (0, [VIDEOS[0]]), (0, [])):
        hub.asked.clear()
        assert (dataset.episode(index).actions == lerobot[2][index]).all()
        assert hub.asked == [("owner/name", COMMIT, file) for file in files]


def test_a_bare_name(hub: FakeHub) -> None:
    assert len(open_dataset("owner/name")) == 5
    assert len(open_dataset(Path("owner/name"), camera="main")) == 5


def test_tokens_of_a_dataset_are_found_again(hub: FakeHub, tmp_path: Path) -> None:
    """Though files were added to its folder by the first reading."""
    for _ in range(2):
        dataset = open_dataset("owner/name")
        contents = contents_of(dataset, kind="tokens", size=(8, 8), tokens_per_frame=1)
        cached_tokens(
            dataset, lambda frames: frames.mean((1, 2, 3))[:, None], contents, tmp_path / "tokens"
        )
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_states_are_downloaded_with_their_numbering(hub: FakeHub, lerobot: Recorded) -> None:
    dataset = open_dataset("owner/name")
    few = Selection(dataset, [1, 4, 2], dataset.episode_ids)
    tiled = Tiled([Selection(dataset, [4, 2], dataset.episode_ids), few])
    hub.asked.clear()
    for view, index, number in ((dataset, 4, 4), (few, 0, 1), (tiled, 1, 2)):
        states = states_of(view, [index])
        assert states is not None and list(states.names) == ["x", "y"]
        assert (states.rows == lerobot[2][number][:, :2]).all()
    assert {file for _, _, file in hub.asked} == {DATA}


def test_tiles_of_a_dataset_are_of_its_commit(hub: FakeHub) -> None:
    views = [open_dataset("owner/name"), open_dataset("owner/name")]
    assert state_of(Tiled(views)) == state_of(views[0]) == COMMIT


def test_no_lerobot_dataset(hub: FakeHub, tmp_path: Path) -> None:
    hub.source = tmp_path
    with pytest.raises(
        UserError, match=r"owner/name .* has no meta/info\.json.*`hf download owner"
    ):
        open_dataset("owner/name")


def test_a_template_cannot_fetch_from_elsewhere(
    hub: FakeHub, lerobot: Recorded, tmp_path: Path, edit_json: Callable[..., None]
) -> None:
    hub.source = Path(shutil.copytree(lerobot[0], tmp_path / "changed"))
    edit_json(hub.source / "meta/info.json", lambda info: info.update(data_path="../../data"))
    with pytest.raises(UserError, match="lies outside"):
        open_dataset("owner/name")
    assert len(hub.asked) == 1


def test_an_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise RuntimeError("No route to the Hub\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        open_dataset("hf://datasets/owner/name@v2.1")
    assert str(caught.value) == (
        "Dataset owner/name is no folder here, and its metadata cannot be fetched from the Hugging "
        "Face Hub (No route to the Hub); download it with `hf download owner/name --repo-type "
        "dataset --revision v2.1 --local-dir FOLDER` and name that folder instead."
    )
    with pytest.raises(UserError, match=r"data/a of dataset o/n .* put it at \S+/data/a, or down"):
        hub_dataset.download_file(HubName("o/n", COMMIT), "data/a", tmp_path)


def test_what_the_library_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def note(*args: Any, **options: Any) -> str:
        asked.append((args, options))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", note)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", note)
    assert hub_dataset.download_metadata(HubName("o/n")) == tmp_path
    hub_dataset.download_file(HubName("o/n", COMMIT), "data/a", tmp_path)
    common = {"repo_type": "dataset"}
    assert asked == [
        (("o/n",), common | {"revision": None, "allow_patterns": ["meta/*"]}),
        (("o/n", "data/a"), common | {"revision": COMMIT}),
    ]
