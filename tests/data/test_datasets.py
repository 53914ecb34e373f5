"""open_dataset: the format is read off the files, and a stranger is told what was looked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vidwm.data.datasets import open_dataset
from vidwm.errors import UserError


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none does not exist; expected a folder"):
        open_dataset(tmp_path / "none")


def test_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path)
    for looked_for in ("meta/info.json", "features.json", "manifest.csv", "*.hdf5", "*.npz"):
        assert looked_for in str(caught.value)


def test_a_file_of_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.mp4 is of no known format"):
        open_dataset(tmp_path / "a.mp4")


def test_info_of_another_library_is_not_taken_for_rlds(tmp_path: Path) -> None:
    """Hugging Face's `datasets` leaves a dataset_info.json too, without features.json."""
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="no known format"):
        open_dataset(tmp_path)


MARKS = {
    "LeRobotDataset": ("meta/info.json",),
    "RLDS": ("dataset_info.json", "features.json"),
    "a manifest": ("manifest.csv",),
    "HDF5": ("deep/below/a.h5",),
    "npz": ("deep/a.npz",),
}


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(MARKS, 2)])
def test_two_formats_in_a_folder(tmp_path: Path, one: str, other: str) -> None:
    for name in MARKS[one] + MARKS[other]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"holds several formats, .*; keep one, or move") as caught:
        open_dataset(tmp_path)
    for part in (one, other, MARKS[one][0], MARKS[other][0]):
        assert part in str(caught.value)


def test_two_manifests(tmp_path: Path) -> None:
    for name in ("manifest.csv", "manifest.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"has both manifest\.jsonl and manifest\.csv; keep one"):
        open_dataset(tmp_path)


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/a.npz").touch()
    with pytest.raises(UserError, match="no known format"):
        open_dataset(tmp_path)


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match="no known format"):
        open_dataset(tmp_path)
