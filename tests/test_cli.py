"""The command line: quick help, one sentence for a mistake, and the right call for the rest."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
import types
from pathlib import Path

import pytest

import vidwm
from vidwm import __version__, cli
from vidwm.config import PretrainConfig, RolloutConfig
from vidwm.data_config import InspectConfig
from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = ["pretrain", "--data", "d", "--tokenizer", "t", "--output-dir", "o"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Commands are replaced by a note of the config they were given."""
    noted: list[object] = []
    for module, function in (
        ("vidwm.data.inspect", "inspect_command"),
        ("vidwm.data.check", "check_command"),
        ("vidwm.data.convert", "convert_command"),
        ("vidwm.estimate.estimate", "estimate"),
        ("vidwm.training.caching", "cache_command"),
        ("vidwm.training.tokenizer", "train_tokenizer"),
        ("vidwm.training.pretrain", "pretrain"),
        ("vidwm.training.grpo", "finetune"),
        ("vidwm.evaluation.rollout_videos", "render_rollouts"),
        ("vidwm.evaluation.evaluate", "evaluate_command"),
        ("vidwm.hub.released", "import_released"),
        ("vidwm.hub.export", "export"),
    ):
        stand_in = types.ModuleType(module)
        setattr(stand_in, function, noted.append)  # returns None, as commands do that went well
        monkeypatch.setitem(sys.modules, module, stand_in)
    return noted


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    done = python(
        "import sys; from vidwm.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print('heavy:', {'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert all(command.split()[0] in done.stdout for command in cli.COMMANDS)
    assert "heavy: set()" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = python("import sys, vidwm, vidwm.config_loader; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_shows_fields_and_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: vidwm {command} " in shown
    assert ("--data PATH" if command.startswith("data ") else "--output_dir PATH") in shown
    assert "(default: " in shown
    assert "(required)" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"vidwm {__version__}\n"


@pytest.mark.parametrize("flag", ["--learning-rate", "--learning_rate"])
@pytest.mark.parametrize("joint", [False, True])
def test_dashes_and_underscores_are_the_same(flag: str, joint: bool, calls: list[object]) -> None:
    words = [f"{flag}=1e-3"] if joint else [flag, "1e-3"]
    assert cli.main([*PRETRAIN, *words]) == 0
    (config,) = calls
    assert isinstance(config, PretrainConfig)
    assert config.learning_rate == 1e-3


def test_dashes_in_a_value_are_left_alone(calls: list[object]) -> None:
    assert cli.main(["rollout", "--data=my-data", "--model", "my-model"]) == 0
    (config,) = calls
    assert isinstance(config, RolloutConfig)
    assert (config.data, config.model) == (Path("my-data"), Path("my-model"))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_calls_its_function(command: str, calls: list[object]) -> None:
    paths = {"data": "d", "output_dir": "o", "tokenizer": "t", "model": "m", "transformer": "x"}
    kind = cli.COMMANDS[command][0]
    known = {spec.name for spec in dataclasses.fields(kind)}
    words = [f"--{name}={path}" for name, path in paths.items() if name in known]
    assert cli.main([*command.split(), *words]) == 0
    assert [type(config) for config in calls] == [kind]


def test_help_of_data_lists_its_commands_without_torch() -> None:
    done = python(
        "import sys; from vidwm.cli import main\n"
        "try: main(['data', '--help'])\n"
        "finally: print('heavy:', {'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    words = [command.split() for command in cli.COMMANDS]
    assert all(rest[0] in done.stdout for first, *rest in words if first == "data")
    assert done.returncode == 0 and "heavy: set()" in done.stdout


def test_a_positional_setting_is_its_flag_and_its_yaml_key(
    calls: list[object], tmp_path: Path
) -> None:
    file = tmp_path / "inspect.yaml"
    file.write_text("data: my_data\n")
    for words in (["my_data"], ["--data", "my_data"], ["--data=my_data"], ["--config", str(file)]):
        assert cli.main(["data", "inspect", *words, "--sample", "3"]) == 0
    assert calls == [InspectConfig(data=Path("my_data"), sample=3)] * 4


def test_a_command_may_say_that_it_found_something_wrong(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vidwm.data.inspect"], "inspect_command", lambda config: 1)
    assert cli.main(["data", "inspect", "d"]) == 0  # inspecting finds nothing wrong
    monkeypatch.setitem(cli.COMMANDS, "data inspect", (InspectConfig, lambda config: 1, "check"))
    assert cli.main(["data", "inspect", "d"]) == 1


def test_bare_flag_means_true(calls: list[object]) -> None:
    cli.main([*PRETRAIN, "--resume"])
    cli.main([*PRETRAIN, "--resume", "false"])
    assert [config.resume for config in calls] == [True, False]  # type: ignore[attr-defined]


def test_print_config_prints_and_does_not_run(
    calls: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "finetune_x.yaml"
    file.write_text("data: d\nmodel: m\noutput_dir: o\ngroup_size: 4\n")
    assert cli.main(["finetune", "--config", str(file), "--steps", "5", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "group_size: 4\n" in shown
    assert "steps: 5\n" in shown
    assert calls == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: command; see `vidwm --help`."),
        (["pretrian"], "invalid choice: 'pretrian'"),
        ([*PRETRAIN, "--lerning-rate", "1"], "--lerning_rate; did you mean learning_rate?"),
        ([*PRETRAIN, "--learning-rat=1"], "--learning_rat; did you mean learning_rate?"),
        ([*PRETRAIN, "--step", "1"], "--step; did you mean steps?"),
        ([*PRETRAIN, "--steps"], "--steps: expected one argument"),
        ([*PRETRAIN, "--steps", "many"], "--steps must be a whole number, got 'many'."),
        ([*PRETRAIN, "stray"], "Unexpected argument 'stray'"),
        ([*PRETRAIN, "--config", "absent.yaml"], "absent.yaml: No such file or directory."),
        (["pretrain"], "2 settings are wrong:"),
        (["data"], "required: subcommand; see `vidwm data --help`."),
        (["data", "inspekt"], "invalid choice: 'inspekt'"),
        (["data", "inspect"], "data is missing"),
        (["data", "inspect", "d", "e"], "Unexpected argument 'e'"),
        (["data", "inspect", "d", "--data", "e"], "data is given twice: 'd' and --data 'e'."),
        (["data", "inspect", "d", "--contact_sheet", "s.jpg"], "must end in .png, got 's.jpg'"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_sentence(
    words: list[str], message: str, calls: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("vidwm: error: ")
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert calls == []


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("No data."), 2, "vidwm: error: No data.\n"),
        (KeyboardInterrupt(), 130, "vidwm: interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "report.md"),
            2,
            "vidwm: error: No space left on device; free some "
            "([Errno 28] No space left on device: 'report.md').\n",
        ),
    ],
)
def test_what_a_command_raises(
    raised: BaseException, code: int, said: str, calls: list[object],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(config: FinetuneConfig) -> None:
        raise raised

    monkeypatch.setattr(sys.modules["vidwm.training.grpo"], "finetune", fail)
    assert cli.main(["finetune", "--data=d", "--model=m", "--output_dir=o"]) == code
    assert capsys.readouterr().err == said


def test_our_own_bugs_keep_their_traceback(
    calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: PretrainConfig) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(sys.modules["vidwm.training.pretrain"], "pretrain", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(PRETRAIN)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_silent(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    words = ["rollout", "--data=d", "--model=m", "--print-config"]
    done = python(
        "import os, sys\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "from vidwm.cli import main\n"
        f"sys.exit(main({words}))"
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_the_public_names_resolve() -> None:
    for name in vidwm.__all__:
        assert getattr(vidwm, name).__name__.split(".")[-1] == name
    assert set(vidwm.__all__) <= set(dir(vidwm))
    with pytest.raises(AttributeError, match="absent"):
        _ = vidwm.absent
