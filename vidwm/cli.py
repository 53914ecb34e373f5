"""`vidwm <command>`: parse, build the config, call the command. No logic of its own.

Imports of what a command runs stand inside the functions, so that `--help` and a mistyped flag
answer at once, without torch. A user's mistake ends as one sentence and exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from vidwm import __version__
from vidwm.config import (
    EvaluateConfig,
    PretrainConfig,
    RolloutConfig,
    TokenizerConfig,
)
from vidwm.config_loader import add_flags, by_place, load_config, read_mapping, to_yaml
from vidwm.data_config import CacheConfig, CheckConfig, ConvertConfig, InspectConfig
from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.hub_config import ExportConfig, ImportConfig
from vidwm.options import Options


def _tokenizer(config: TokenizerConfig) -> None:
    from vidwm.training.tokenizer import train_tokenizer

    train_tokenizer(config)


def _pretrain(config: PretrainConfig) -> None:
    from vidwm.training.pretrain import pretrain

    pretrain(config)


def _finetune(config: FinetuneConfig) -> None:
    if config.from_ is not None:
        from vidwm.training.adapt import adapt

        adapt(config)
    else:
        from vidwm.training.grpo import finetune

        finetune(config)


def _rollout(config: RolloutConfig) -> None:
    from vidwm.evaluation.rollout_videos import render_rollouts

    render_rollouts(config)


def _evaluate(config: EvaluateConfig) -> None:
    from vidwm.evaluation.evaluate import evaluate_command

    evaluate_command(config)


def _import(config: ImportConfig) -> None:
    from vidwm.hub.released import import_released

    print(f"import: {import_released(config)}")


def _export(config: ExportConfig) -> None:
    from vidwm.hub.export import export

    print(f"export: {export(config)}")


def _estimate(config: TokenizerConfig | PretrainConfig | FinetuneConfig) -> None:
    from vidwm.estimate.estimate import estimate

    print(estimate(config))


def _inspect(config: InspectConfig) -> None:
    from vidwm.data.inspect import inspect_command

    inspect_command(config)


def _check(config: CheckConfig) -> int:
    from vidwm.data.check import check_command

    return check_command(config)


def _convert(config: ConvertConfig) -> None:
    from vidwm.data.convert import convert_command

    convert_command(config)


def _cache(config: CacheConfig) -> None:
    from vidwm.training.caching import cache_command

    cache_command(config)


# Command -> its config, what runs it (and may return an exit code), its line in `--help`; in the
# order of use. The first of two words is a group of `GROUPS`.
COMMANDS: dict[str, tuple[type[Options], Callable[[Any], int | None], str]] = {
    "data inspect": (InspectConfig, _inspect, "say what recordings hold, and draw some of them"),
    "data check": (CheckConfig, _check, "say what is wrong with recordings, and where"),
    "data convert": (ConvertConfig, _convert, "write recordings in another format"),
    "data cache": (CacheConfig, _cache, "decode recordings once, or tokenise them once"),
    "tokenizer": (TokenizerConfig, _tokenizer, "train the tokenizer: frames to tokens and back"),
    "pretrain": (PretrainConfig, _pretrain, "train a world model by maximum likelihood"),
    "finetune": (FinetuneConfig, _finetune, "post-train a world model with GRPO"),
    "estimate tokenizer": (TokenizerConfig, _estimate, "count what training the tokenizer takes"),
    "estimate pretrain": (PretrainConfig, _estimate, "count what maximum likelihood takes"),
    "estimate finetune": (FinetuneConfig, _estimate, "count what GRPO takes"),
    "rollout": (RolloutConfig, _rollout, "render predicted videos beside the true ones"),
    "evaluate": (EvaluateConfig, _evaluate, "measure a world model on held-out episodes"),
    "import": (ImportConfig, _import, "open a released RLVR-World model as a world model"),
    "export": (ExportConfig, _export, "write a world model with its card, for the Hub if asked"),
}


GROUPS = {
    "data": "look at recordings, check, convert and cache them",
    "estimate": "count parameters, FLOPs, memory and floor time of a run before it starts",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`.")


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0; what the command returns (1: it found something wrong); 2 for a user's mistake; 130 when
    interrupted.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"vidwm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vidwm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone: nothing more can be said, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"vidwm: error: No space left on device; free some ({error}).", file=sys.stderr)
        return 2


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    try:
        known, unknown = parser.parse_known_args(_with_stage([_underscored(w) for w in argv]))
    finally:
        sys.stdout.flush()  # --help exits here, and a broken pipe has to show before that
    flags = vars(known)
    command, file, print_config = (flags.pop(key) for key in ("command", "config", "print_config"))
    command = " ".join([command, *filter(None, [flags.pop("subcommand", None)])])
    unknown_keys = {word[2:].partition("=")[0]: "" for word in unknown if word.startswith("--")}
    if unknown and not unknown_keys:
        raise UserError(f"Unexpected argument {unknown[0]!r}; settings are given as --key value.")
    kind, run, _ = COMMANDS[command]
    for name in kind.positional:
        if (value := flags.pop(by_place(name), None)) is None:
            continue
        if name in flags:
            raise UserError(f"{name} is given twice: {value!r} and --{name} {flags[name]!r}.")
        flags[name] = value
    config = load_config(kind, file, flags | unknown_keys)
    if print_config:
        sys.stdout.write(to_yaml(config))
    code = None if print_config else run(config)
    sys.stdout.flush()
    return code or 0


def _parser() -> _Parser:
    parser = _Parser(
        prog="vidwm", description=_DESCRIPTION, allow_abbrev=False, formatter_class=_help_format
    )
    parser.add_argument("--version", action="version", version=f"vidwm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    groups = {group: _group(commands, group, summary) for group, summary in GROUPS.items()}
    for name, (kind, _, summary) in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        places = "".join(f"{place.upper()} " for place in kind.positional)
        command = groups.get(group, commands).add_parser(
            word,
            help=summary,
            description=_sentence(summary),
            usage=f"vidwm {name} {places}[--config FILE] [--key value ...]",
            allow_abbrev=False,
            formatter_class=_help_format,
        )
        command.add_argument("--config", type=Path, help="YAML file of keys below; flags win")
        command.add_argument(
            "--print_config", action="store_true", help="print the resolved config and stop"
        )
        add_flags(command, kind)
    return parser


def _group(commands: _Commands, name: str, summary: str) -> _Commands:
    """The subcommands of `vidwm <name>`, yet to be filled."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=_sentence(summary),
        allow_abbrev=False,
        formatter_class=_help_format,
    )
    return parser.add_subparsers(dest="subcommand", metavar="subcommand", required=True)


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _help_format(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=32)


_DESCRIPTION = (
    "Video world models of robots: train them, post-train them with reinforcement learning from "
    "verifiable rewards, render and measure them. `vidwm <command> --help` lists the settings; "
    "--learning-rate and --learning_rate are the same."
)


def _with_stage(argv: list[str]) -> list[str]:
    """`vidwm estimate --config FILE` is about the stage whose settings the file holds."""
    if argv[:1] != ["estimate"] or not argv[1:] or not argv[1].startswith("-"):
        return argv
    words = [part for word in argv for part in word.split("=", 1)]
    if "--config" not in words[:-1]:
        return argv
    keys = read_mapping(Path(words[words.index("--config") + 1])).keys()
    stage = "tokenizer"
    if keys & {"model", "from"}:
        stage = "finetune"
    elif keys & {"tokenizer", "horizon"}:
        stage = "pretrain"
    return ["estimate", stage, *argv[1:]]


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
