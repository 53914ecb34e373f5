"""Datasets of the Hugging Face Hub: the metadata first, then each episode's files when it is read.

A dataset is named hf://datasets/<owner>/<name>, with @<revision> after it if wanted, or just
<owner>/<name> where there is no such folder. Only LeRobotDatasets are read this way: their metadata
says which files an episode lies in. Everything comes from the commit the metadata came from, into
the Hub's own cache. `download_metadata` and `download_file` are all that touches the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vidwm.data.lerobot import LeRobotDataset
from vidwm.errors import UserError, first_line

# A Path makes one slash of two.
ADDRESS = re.compile(r"hf:/{1,2}datasets/([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")
BARE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_SUFFIXES = (".npz", ".hdf5", ".h5", ".csv", ".jsonl")
METADATA = "meta/*"


@dataclass(frozen=True)
class HubName:
    """A dataset's repository and the branch, tag or commit of it; None is its main branch."""

    repository: str
    revision: str | None = None


def hub_name(path: str | Path) -> HubName | None:
    """The Hub's dataset that a path names, None if it is to be looked for on this machine."""
    text = str(path)
    address = ADDRESS.fullmatch(text)
    if address:
        return HubName(address[1], address[2])
    if text.startswith("hf:"):
        raise UserError(
            f"Dataset {text} is no address of the Hub's; expected "
            f"hf://datasets/<owner>/<name> or hf://datasets/<owner>/<name>@<revision>."
        )
    if Path(path).exists() or not BARE_NAME.fullmatch(text) or text.endswith(FILE_SUFFIXES):
        return None
    owner = Path(text.split("/")[0])  # a folder here: then the rest of a path is misspelled
    return None if owner.exists() else HubName(text)


def open_hub_dataset(name: HubName, *, camera: str | None, split: str | None) -> LeRobotDataset:
    """Its metadata is downloaded now, unless the Hub's cache has it; UserError if it cannot be."""
    folder = download_metadata(name)
    if not (folder / "meta" / "info.json").is_file():
        raise UserError(
            f"Dataset {name.repository} of the Hugging Face Hub has no meta/info.json, so it is no "
            f"LeRobotDataset, and others are not read from there; {_by_hand(name)}."
        )
    pinned = HubName(name.repository, folder.name)
    fetch = partial(_fetch, pinned, folder)  # no closure: it goes along to worker processes
    return LeRobotDataset(folder, camera=camera, split=split, fetch=fetch, commit=pinned.revision)


def _fetch(name: HubName, folder: Path, file: str) -> None:
    if not (folder / file).exists():
        download_file(name, file, folder)


def download_metadata(name: HubName) -> Path:
    """The folder of a commit in the Hub's cache, with the dataset's meta/ in it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name.repository,
                repo_type="dataset",
                revision=name.revision,
                allow_patterns=[METADATA],
            )
        )
    except Exception as error:  # the kinds depend on the HTTP library of the installed version
        raise UserError(
            f"Dataset {name.repository} is no folder here, and its metadata cannot be fetched from "
            f"the Hugging Face Hub ({first_line(error)}); {_by_hand(name)}."
        ) from error


def download_file(name: HubName, file: str, folder: Path) -> None:
    """Bring one file of a commit into its folder in the Hub's cache."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name.repository, file, repo_type="dataset", revision=name.revision)
    except Exception as error:  # as above
        raise UserError(
            f"{file} of dataset {name.repository} cannot be fetched from the Hugging Face Hub "
            f"({first_line(error)}); put it at {folder / file}, or {_by_hand(name)}."
        ) from error


def _by_hand(name: HubName) -> str:
    revision = f" --revision {name.revision}" if name.revision else ""
    return (
        f"download it with `hf download {name.repository} --repo-type dataset{revision} "
        f"--local-dir FOLDER` and name that folder instead"
    )
