"""Where a dataset's own file names may lead: below its folder, and into the Hub's store."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidwm.data.reading import inside
from vidwm.errors import UserError


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    (tmp_path / "set/data").mkdir(parents=True)
    (tmp_path / "set/data/a").touch()
    (tmp_path / "secret").touch()
    return tmp_path / "set"


def test_plain_names_and_links_between_own_files(root: Path) -> None:
    assert inside(root, "data/./a", stated_in=root) == root / "data/a"
    (root / "b").symlink_to("data/a")
    (root.parent / "alias").symlink_to(root)
    for folder in (root, root.parent / "alias"):
        assert inside(folder, "b", stated_in=root) == folder / "b"


@pytest.mark.parametrize("name", ["../secret", "data/../../secret", "/etc/passwd", "..", "a\0b"])
def test_names_that_leave(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="which lies outside"):
        inside(root, name, stated_in=root / "info.json")


def test_links_that_leave(root: Path) -> None:
    (root / "file").symlink_to("../secret")
    (root / "folder").symlink_to("..")
    (root / "circle").symlink_to("circle")
    (root / "blobs").symlink_to("/")
    for name in ("file", "folder/secret", "blobs/etc/passwd"):
        with pytest.raises(UserError, match=r"is a link to .*, outside of .*put the file itself"):
            inside(root, name, stated_in=root)
    assert inside(root, "circle", stated_in=root) == root / "circle"  # opening it says the rest


def test_downloads_of_the_hub_are_links(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--owner--name"
    root = cache / "snapshots/0123"
    for folder in (root, cache / "blobs", tmp_path / "blobs"):
        folder.mkdir(parents=True)
    (root / "a").symlink_to("../../blobs/abc")
    assert inside(root, "a", stated_in=root) == root / "a"
    (root / "b").symlink_to("../../../blobs/abc")
    with pytest.raises(UserError, match="outside of"):
        inside(root, "b", stated_in=root)
    plain = tmp_path / "snapshots/mine"  # a folder of that name alone opens nothing
    plain.mkdir(parents=True)
    (plain / "a").symlink_to("../../blobs/abc")
    with pytest.raises(UserError, match="outside of"):
        inside(plain, "a", stated_in=plain)
