"""Configs: YAML < flags, every mistake told at once, with its key, value and origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from vidwm.cli import COMMANDS
from vidwm.config import PretrainConfig, TokenizerConfig
from vidwm.config_loader import load_config, read_mapping, to_yaml
from vidwm.errors import UserError
from vidwm.finetune_config import FinetuneConfig
from vidwm.options import option

PATHS = {"data": "d", "tokenizer": "t", "output_dir": "o"}


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return write


def test_flags_win_over_yaml_and_yaml_over_defaults(yaml_file: Callable[[str], Path]) -> None:
    file = yaml_file("data: d\ntokenizer: t\noutput_dir: o\nsteps: 7\nbatch_size: 9\n")
    config = load_config(PretrainConfig, file, {"steps": "8"})
    assert (config.steps, config.batch_size, config.num_layers) == (8, 9, 6)
    assert config.data == Path("d")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "2", 2.0),
        ("steps", "1e3", 1000),
        ("steps", "10_000", 10_000),
        ("seed", "9007199254740993", 9007199254740993),
        ("resume", "true", True),
        ("camera", "none", None),
        ("camera", "top", "top"),
        ("fsq_levels", "7,5,5", (7, 5, 5)),
        ("fsq_levels", "[7, 5]", (7, 5)),
        ("quantizer", "vq", "vq"),
        ("init_from", "runs/x", Path("runs/x")),
        ("output_dir", "~/run", Path.home() / "run"),
    ],
)
def test_text_and_yaml_mean_the_same(
    yaml_file: Callable[[str], Path], key: str, text: str, value: object
) -> None:
    paths = {"data": "d", "output_dir": "o"}
    from_flag = load_config(TokenizerConfig, None, paths | {key: text})
    file = yaml_file(f"{key}: {text if key != 'fsq_levels' else list(value)}\n")
    from_file = load_config(TokenizerConfig, file, {k: v for k, v in paths.items() if k != key})
    assert getattr(from_flag, key) == getattr(from_file, key) == value
    assert type(getattr(from_flag, key)) is type(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stps: 3", "Unknown key stps (in {file}); did you mean steps?"),
        ("zzz: 3", "Unknown key zzz (in {file}); --help lists the known ones."),
        ("ppo: {steps: 3}", "Unknown key ppo (in {file}); --help lists the known ones."),
        ("steps: many", "steps must be a whole number, got 'many' (in {file})."),
        ("steps: 1.5", "steps must be a whole number, got 1.5 (in {file})."),
        ("steps: true", "steps must be a whole number, got True (in {file})."),
        ("steps: 0", "steps must be at least 1, got 0 (in {file})."),
        ("learning_rate: .nan", "learning_rate must be a number, got nan (in {file})."),
        ("learning_rate: 0", "learning_rate must be above 0, got 0.0 (in {file})."),
        ("heldout: 1", "heldout must be at least 0 and below 1, got 1.0 (in {file})."),
        ("resume: 3", "resume must be true or false, got 3 (in {file})."),
        ("camera: 3", "camera must be text, got 3 (in {file})."),
        ("schedule: cos", "schedule must be one of constant, cosine, got 'cos' (in {file})."),
        ("cache_dir: [a]", "cache_dir must be a path, got ['a'] (in {file})."),
        ("num_heads: 3", "hidden_size must be a multiple of 2 * num_heads = 6 (rotary positions "
         "turn pairs), got 256."),
    ],
)  # fmt: skip
def test_a_mistake_names_key_value_and_file(
    yaml_file: Callable[[str], Path], line: str, message: str
) -> None:
    file = yaml_file(line + "\n")
    with pytest.raises(UserError) as error:
        load_config(PretrainConfig, file, PATHS)
    assert str(error.value) == message.format(file=file)


def test_mistakes_in_files_and_flags_are_told_together(yaml_file: Callable[[str], Path]) -> None:
    file = yaml_file("stps: 3\nbatch_size: -1\nseed: 1\n")
    with pytest.raises(UserError) as error:
        load_config(PretrainConfig, file, {"seed": "x", "data": "d", "tokenizer": "t"})
    assert str(error.value).splitlines() == [
        "4 settings are wrong:",
        f"  - Unknown key stps (in {file}); did you mean steps?",
        f"  - batch_size must be at least 1, got -1 (in {file}).",
        "  - --seed must be a whole number, got 'x'.",
        "  - output_dir is missing (run folder; must not exist unless resumed); "
        "give --output_dir or set it in the --config file.",
    ]


def test_a_value_a_flag_replaces_is_not_judged(yaml_file: Callable[[str], Path]) -> None:
    config = load_config(PretrainConfig, yaml_file("steps: many\n"), PATHS | {"steps": "3"})
    assert config.steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nsteps: 4\n", "sets steps twice"),
        ("a: [1\n", "is not valid YAML at line 2"),
        ("- a\n", "must hold `key: value` lines"),
        ("3\n", "must hold `key: value` lines"),
    ],
)
def test_a_bad_file_is_one_sentence(
    yaml_file: Callable[[str], Path], text: str, message: str
) -> None:
    file = yaml_file(text)
    with pytest.raises(UserError, match=message) as error:
        read_mapping(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path, yaml_file: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: No such file"):
        read_mapping(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        read_mapping(tmp_path)
    (tmp_path / "video.mp4").write_bytes(b"\xff\xd8\x00")
    with pytest.raises(UserError, match=r"video\.mp4 is not text"):
        read_mapping(tmp_path / "video.mp4")
    assert read_mapping(yaml_file("# nothing but a comment\n")) == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_printed_config_reads_back_equal(
    command: str, yaml_file: Callable[[str], Path]
) -> None:
    kind = COMMANDS[command][0]
    config = load_config(kind, None, {name: f"x/{name}" for name in needed(command)})
    assert load_config(kind, yaml_file(to_yaml(config))) == config


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_legal_and_every_field_is_explained(command: str) -> None:
    kind = COMMANDS[command][0]
    for spec in dataclasses.fields(kind):
        assert spec.metadata["help"], f"{command}.{spec.name} has no help"
    # Building checks every default against its own bounds and choices.
    kind(**{name: Path("x") for name in needed(command)})


def needed(command: str) -> list[str]:
    """The fields without which a command has nothing to go on."""
    specs = dataclasses.fields(COMMANDS[command][0])
    either = {"pretrain": ["tokenizer"], "finetune": ["model"]}
    required = [spec.name for spec in specs if spec.default is dataclasses.MISSING]
    return required + either.get(command.removeprefix("estimate "), [])


def test_a_field_named_as_a_word_of_python_is_spelled_as_that_word(
    yaml_file: Callable[[str], Path],
) -> None:
    file = yaml_file("from: old\ndata: d\noutput_dir: o\n")
    config = load_config(FinetuneConfig, file)
    assert config.from_ == Path("old") and config.model is None
    assert "from: old\n" in to_yaml(config) and "from_" not in to_yaml(config)
    with pytest.raises(UserError, match="Unknown key --from_; did you mean from"):
        load_config(FinetuneConfig, file, {"from_": "x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Give either model"),
        ({"model": "m", "from": "f"}, "Give either model"),
        ({"model": "m", "pretrain_steps": "5"}, "pretrain_steps would be ignored"),
        ({"model": "m", "steps": "0"}, "steps must be at least 1"),
        ({"from": "f", "tokenizer_steps": "1", "pretrain_steps": "0"}, "give pretrain_steps"),
    ],
)
def test_a_model_is_either_given_or_adapted(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(FinetuneConfig, None, {"data": "d", "output_dir": "o"} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give a tokenizer folder, or init_from"),
        ({"lora_rank": "4"}, "give init_from as well"),
        (
            {"init_from": "m", "action_form": "delta", "action_shift": "1", "frame_skip": "2"},
            "^action_form, action_shift: the model of init_from keeps its own actions",
        ),
    ],
)
def test_pretraining_begins_with_something(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(PretrainConfig, None, {"data": "d", "output_dir": "o"} | changes)


def test_python_callers_are_checked_too() -> None:
    with pytest.raises(UserError) as error:
        FinetuneConfig(
            data=Path("d"), model=Path("m"), output_dir=Path("o"), group_size=1, loss_type="grop"
        )
    assert "group_size must be at least 2, got 1." in str(error.value)
    assert "loss_type must be one of grpo, dr_grpo, dapo, got 'grop'." in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsample": 6}, "downsample must be a power of two and at least 4 for 3 widths, got 6"),
        ({"width": 60}, "width must be a multiple of downsample = 8, got 60"),
        ({"fsq_levels": (8, 1)}, r"fsq_levels must be at least 2, got \(8, 1\)"),
    ],
)
def test_tokenizer_conflicts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerConfig(data=Path("d"), output_dir=Path("o"), **changes)


def test_mini_batches_share_the_contexts_evenly() -> None:
    with pytest.raises(UserError, match="mini_batches must divide batch_size = 8, got 3"):
        FinetuneConfig(data=Path("d"), model=Path("m"), output_dir=Path("o"), mini_batches=3)


def test_a_misspelt_bound_is_our_own_mistake() -> None:
    with pytest.raises(TypeError, match="atleast"):
        option(1, "help", atleast=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combine": "normalise_then_sum", "credit": "local"}, "needs credit = rollout"),
        ({"combine": "normalise_then_sum", "scale_rewards": "batch"}, "scale_rewards = group"),
        ({"stop_when_gold_falls": True, "eval_every": 0}, "give eval_every a positive value"),
    ],
)
def test_finetune_conflicts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FinetuneConfig(**{"data": "d", "model": "m", "output_dir": "o"} | changes)  # type: ignore[arg-type]
