"""What a model keeps of the parts of the mixture it was trained on, so that it reads them alike.

Each part may say by itself what its actions are and which camera is seen (`PartOptions`). A dataset
named later is known as one of the parts by its name alone, since folders move; any other has to be
what all parts are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidwm.data.action_semantics import ActionSemantics
from vidwm.errors import UserError

NO_NAME = re.compile(r"v?[\d.]+|(part|view)-\d+")  # a version, or a piece of a cache


@dataclass(frozen=True, kw_only=True)
class KeptPart:
    """A part as it was trained on: its name in the mixture and that of its dataset, neither with
    the folders around it; `semantics` are its own, before the model's come on top.
    """

    name: str
    dataset: str
    weight: float
    camera: str
    semantics: ActionSemantics

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> KeptPart:
        """What `dataclasses.asdict` made of one; UserError when it is of another form."""
        try:
            return cls(**{**values, "semantics": ActionSemantics.from_json(values["semantics"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"The part of a mixture is of no known form: {error}.") from error

    @property
    def line(self) -> str:
        """The part for people."""
        whole = self.name if self.name == self.dataset else f"{self.name} ({self.dataset})"
        actions = in_words(self.semantics)
        return f"{whole}: weight {self.weight:g}, camera {self.camera}, {actions}"


def dataset_name(data: Path) -> str:
    """The last word of a path, with the one before it where it is a version or the like."""
    words = Path(os.path.abspath(data)).parts
    return "/".join(words[-2:]) if NO_NAME.fullmatch(words[-1]) else words[-1]


def in_words(semantics: ActionSemantics) -> str:
    """What a part says of its actions, in the words of a mixture file."""
    said = []
    if semantics.form != "recorded":
        said.append(f"action_form {semantics.form}")
    if semantics.shift:
        said.append(f"action_shift {semantics.shift}")
    if semantics.discrete:
        said.append(f"discrete actions {', '.join(map(str, semantics.discrete))}")
    return "with " + ", ".join(said) if said else "actions as recorded"


def parts_named(data: Path, parts: Sequence[KeptPart]) -> list[KeptPart]:
    """The parts that a dataset is by its name."""
    return [part for part in parts if dataset_name(data) in (part.name, part.dataset)]


def kept_semantics(data: Path, parts: Sequence[KeptPart]) -> ActionSemantics:
    """What a dataset's actions are by what is kept; UserError where that is not clear."""
    if not parts:
        return ActionSemantics()
    named = parts_named(data, parts)
    found = {part.semantics for part in named or parts}
    if len(found) == 1:
        return found.pop()
    listed = "; ".join(f"{part.name}: {in_words(part.semantics)}" for part in parts)
    raise UserError(
        f"The model was trained on parts of a mixture whose actions differ in meaning ({listed}), "
        f"and {data} is {'several' if named else 'none'} of them by its name; say what its actions "
        f"are in a mixture file, such as one.yaml with the line `{data}: {{action_shift: 1}}`, and "
        f"give that as --data."
    )


def kept_camera(data: Path, parts: Sequence[KeptPart]) -> str | None:
    """The camera of the part that a dataset is by its name; None where there is not one such."""
    cameras = {part.camera for part in parts_named(data, parts)}
    return cameras.pop() if len(cameras) == 1 else None
