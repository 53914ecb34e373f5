"""open_dataset: the format is read off the files, and a stranger is told what was looked for."""

from __future__ import annotations

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
    for looked_for in ("meta/info.json", "dataset_info.json", "features.json", "*.npz"):
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
