"""From a YAML file and flags to a config: YAML < flags, and every mistake told at once.

The YAML is plain data with the flat keys of `vidwm.config`; a flag is a key behind two dashes.
Relative paths start where the command runs. Nothing is guessed: an unknown or doubled key, a value
of the wrong type and a missing key are errors, each naming the key, where it came from and what was
expected. (jsonargparse, tried first, stops at the first mistake and suggests no names.)
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from vidwm.errors import UserError
from vidwm.options import Options, all_at_once, key, problem_with

Config = TypeVar("Config", bound=Options)


def load_config(
    kind: type[Config], file: Path | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    """Build a `kind` from a YAML file and flags (key -> text); UserError lists all mistakes."""
    given = {word: (word, value, f" (in {file})") for word, value in read_mapping(file).items()}
    given |= {word: (f"--{word}", value, "") for word, value in (flags or {}).items()}
    return build_config(kind, given)


def build_config(kind: type[Config], given: Mapping[str, tuple[str, Any, str]]) -> Config:
    """Build a `kind` from key -> (the key as it was given, value, where); errors as above."""
    hints = get_type_hints(kind)
    specs = {key(spec.name): spec for spec in fields(kind)}
    values: dict[str, Any] = {}
    problems = []
    for word, (label, raw, where) in given.items():
        if word not in specs:
            problems.append(f"Unknown key {label}{where}; {_hint(word, list(specs))}")
            continue
        name = specs[word].name
        try:
            values[name] = _convert(raw, hints[name])
        except ValueError as expected:
            problems.append(f"{label} must be {expected}, got {raw!r}{where}.")
        else:
            if problem := problem_with(specs[word], hints[name], values[name]):
                problems.append(f"{label} {problem}{where}.")
    problems += [
        f"{spec.name} is missing ({spec.metadata['help']}); give --{spec.name} or set it in the "
        f"--config file."
        for spec in specs.values()
        if spec.default is MISSING and key(spec.name) not in given
    ]
    if problems:
        raise all_at_once(problems)
    return kind(**values)


def read_mapping(file: Path | None, kind: str = "config") -> dict[str, Any]:
    """The keys and values of a YAML file, {} for no file or an empty one; `kind` names it."""
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"Cannot read the {kind} file {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The {kind} file {file} is not text; give a YAML file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"The {kind} file {file} is not valid YAML{place}: {reason}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(tree, yaml.MappingNode):
        raise UserError(f"The {kind} file {file} must hold `key: value` lines and nothing else.")
    keys = [str(key.value) for key, _ in tree.value]
    if doubled := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"The {kind} file {file} sets {', '.join(doubled)} twice; keep one.")
    return {str(key): value for key, value in content.items()}


def to_yaml(config: Options) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal config."""
    values = {key(spec.name): getattr(config, spec.name) for spec in fields(config)}
    values = {
        word: str(value) if isinstance(value, Path) else value for word, value in values.items()
    }
    return str(yaml.safe_dump(values, sort_keys=False))


def add_flags(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """A flag for each field, grouped by the class that declares it; parsed values stay text.

    Positional fields may be given by place as well, and are then parsed as `by_place(name)`.
    """
    hints = get_type_hints(kind)
    pending = {spec.name: spec for spec in fields(kind)}
    for name in kind.positional:
        parser.add_argument(
            by_place(name),
            nargs="?",
            default=argparse.SUPPRESS,
            metavar=name.upper(),
            help=f"as --{name}",
        )
    for owner in kind.__mro__:
        declared = [name for name in inspect.get_annotations(owner) if name in pending]
        if not declared:
            continue
        group = parser.add_argument_group((owner.__doc__ or "").splitlines()[0].rstrip("."))
        for name in declared:
            bare: dict[str, Any] = {"nargs": "?", "const": "true"} if hints[name] is bool else {}
            group.add_argument(
                f"--{key(name)}",
                default=argparse.SUPPRESS,
                metavar=_metavar(hints[name]),
                help=_help(pending.pop(name)),
                **bare,
            )


def by_place(name: str) -> str:
    """Under which name a positional field that was given by its place is parsed."""
    return f"{name} by place"


def _hint(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]}?" if close else "--help lists the known ones."


def _convert(value: Any, hint: Any) -> Any:
    """`value` (from YAML, or the text of a flag) as `hint`; ValueError says what was expected."""
    if NoneType in get_args(hint):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return _convert(value, next(arg for arg in get_args(hint) if arg is not NoneType))
    if get_origin(hint) is tuple:
        items = value.strip("[]() ").split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not items:
            raise ValueError("a list such as 8,5,5,5")
        return tuple(_convert(item, get_args(hint)[0]) for item in items)
    if hint is bool:
        truth = {"true": True, "false": False}.get(str(value).lower())
        if truth is None:
            raise ValueError("true or false")
        return truth
    if hint is int or hint is float:
        return _number(value, hint)
    if not isinstance(value, str) or not value:
        raise ValueError("a path" if hint is Path else "text")
    return Path(value).expanduser() if hint is Path else value


def _number(value: Any, hint: type) -> int | float:
    # YAML 1.1 reads 1e-4 as text: what looks like a number to a person has to be one here.
    expected = "a whole number" if hint is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(expected)
    if hint is int and not isinstance(value, float):
        with contextlib.suppress(ValueError):
            return int(value)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(expected) from None
    if not math.isfinite(number) or (hint is int and not number.is_integer()):
        raise ValueError(expected)
    return int(number) if hint is int else number


def _metavar(hint: Any) -> str:
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return "{" + ",".join(args) + "}"
    if get_origin(hint) is tuple:
        return "INT,INT,.."
    if NoneType in args:
        return _metavar(next(arg for arg in args if arg is not NoneType))
    return {bool: "BOOL", int: "INT", float: "FLOAT", Path: "PATH"}.get(hint, "TEXT")


def _help(spec: Field[Any]) -> str:
    text = str(spec.metadata["help"]).replace("%", "%%")
    if spec.default is MISSING:
        return f"{text} (required)"
    default = spec.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = str(default).lower() if default is None or isinstance(default, bool) else default
    return f"{text} (default: {shown})"
