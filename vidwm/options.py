"""What a setting is: a field of a frozen dataclass with its type, default, help and bounds.

Flags, help texts, the YAML reader and the range checks are all made from that (see
`vidwm.config_loader`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from vidwm.errors import UserError

_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


def option(default: Any, help: str, **bounds: float) -> Any:
    """A field with a default. Bounds: at_least, above, at_most, below; of lists, for each item."""
    if unknown := bounds.keys() - _BOUNDS.keys():
        raise TypeError(f"unknown bounds {sorted(unknown)}, known are {list(_BOUNDS)}")
    return field(default=default, metadata={"help": help, "bounds": bounds})


def required(help: str) -> Any:
    """A field the user has to give."""
    return option(MISSING, help)


def key(name: str) -> str:
    """How a field is spelled in YAML and as a flag: `from_`, as Python will have it, is `from`."""
    return name.rstrip("_")


def problem_with(spec: Field[Any], hint: Any, value: Any) -> str | None:
    """Why `value`, already of the type `hint`, cannot be the field `spec`; None if it can.

    The answer continues a sentence that begins with the name: "must be at least 1, got 0".
    """
    if get_origin(hint) is Literal and value not in get_args(hint):
        return f"must be one of {', '.join(get_args(hint))}, got {value!r}"
    items = value if isinstance(value, tuple) else (value,)
    bounds = spec.metadata["bounds"]
    if value is None or all(_BOUNDS[b](item, bounds[b]) for b in bounds for item in items):
        return None
    wanted = " and ".join(f"{bound.replace('_', ' ')} {bounds[bound]:g}" for bound in bounds)
    return f"must be {wanted}, got {value!r}"


def all_at_once(problems: Sequence[str]) -> UserError:
    """One error that tells every problem, so that a config is mended in one go."""
    if len(problems) == 1:
        return UserError(problems[0])
    listed = "".join(f"\n  - {problem}" for problem in problems)
    return UserError(f"{len(problems)} settings are wrong:{listed}")


def changed(options: Options, kind: type[Options]) -> list[str]:
    """Keys of the fields that `kind` declares whose values in `options` are not the defaults."""
    declared = [spec for spec in fields(kind) if getattr(options, spec.name) != spec.default]
    return [key(spec.name) for spec in declared]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The common root: checks bounds and choices when built; the UserError lists all that fail.

    `positional` names fields that may also be given by place: `vidwm data inspect PATH`.
    """

    positional: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        problems = [
            f"{key(spec.name)} {problem}."
            for spec in fields(self)
            if (problem := problem_with(spec, hints[spec.name], getattr(self, spec.name)))
        ]
        if problems := problems or self.conflicts():
            raise all_at_once(problems)

    def conflicts(self) -> list[str]:
        """Sentences about fields that are fine alone and wrong together."""
        return []
