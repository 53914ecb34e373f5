"""World models leave as folders that others open, with a card, and go to the Hub if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from vidwm.cli import main
from vidwm.world_model.world_model import WorldModel

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "assets/tiny"


def exported(model: Path, output: Path, *more: object) -> int:
    words = ("export", "--model", model, "--output_dir", output, *more)
    return main([str(word) for word in words])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.parent.name}/{n}": t for f in files for n, t in load_file(f).items()}


def test_what_is_exported_is_the_model_to_the_last_bit(tmp_path, capsys):
    assert exported(TINY, tmp_path / "out") == 0
    assert capsys.readouterr().out == f"export: {tmp_path / 'out'}\n"
    before, after = (WorldModel.from_pretrained(folder) for folder in (TINY, tmp_path / "out"))
    assert before.setting == after.setting and before.layout == after.layout
    states = before.state_dict(), after.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert exported(tmp_path / "out", tmp_path / "again") == 0
    first, second = weights(tmp_path / "out"), weights(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_transformer_opens_elsewhere_and_half_precision_is_kept(tmp_path):
    assert exported(TINY, tmp_path / "out", "--dtype", "bf16") == 0
    assert {t.dtype for t in weights(tmp_path / "out").values()} == {torch.bfloat16}
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "out/transformer", dtype=torch.float32)
    ours = WorldModel.from_pretrained(tmp_path / "out").transformer
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_card_says_what_a_run_made_it_from(tmp_path):
    run = tmp_path / "run"
    model = run / "checkpoints/00000020/model"
    WorldModel.from_pretrained(TINY).save_pretrained(model)
    start = {"seed": 7, "vidwm": "0.1.0", "commit": "abc123", "config": {}}
    start["config"] = {"data": "/private/secret/drawers", "batch_size": 8}
    (run / "history.jsonl").write_text(json.dumps(start) + "\n")
    logged = ({"step": 10, "heldout_mae": 0.5}, {"step": 20, "heldout_mae": 0.25, "loss": 1.0})
    later = {"step": 30, "heldout_mae": 0.1}
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, (*logged, later))) + "\n")
    (tmp_path / "report.md").write_text("# Evaluation\n\n## Scores\n\n| a | b |\n")
    assert exported(model, tmp_path / "out", "--report", tmp_path / "report.md") == 0
    card = (tmp_path / "out/README.md").read_text()
    for line in (
        "- data: drawers",
        "- 20 steps, batches of 8, seed 7",
        "- vidwm 0.1.0, commit abc123",
        "- heldout mae: 0.25",
        "### Scores",
        "Predicts 4 frames of 64x64 at 10 frames a second from 2 frames",
    ):
        assert line in card
    assert "secret" not in card and card.startswith("---\n")


class ConnectionRefused(Exception):
    """Of the HTTP library, and no kind of OSError."""


class Hub:
    """Stands in for the Hub's client."""

    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append((options["repo_id"], options))


def test_pushes_the_folder_it_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    assert exported(TINY, tmp_path / "out", "--push", "me/drawers") == 0
    (name, made), (again, sent) = Hub.calls
    assert name == again == "me/drawers" and made["private"] is True
    assert sent["folder_path"] == tmp_path / "out"


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefused("401 not logged in\nlong story")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "create_repo", refuse)
    assert exported(TINY, tmp_path / "out", "--push", "me/drawers") == 2
    message = capsys.readouterr().err
    assert "cannot be pushed to me/drawers (401 not logged in)" in message
    assert "hf upload me/drawers" in message and message.count("\n") == 1
    assert (tmp_path / "out/world_model.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--push", "drawers"), "--push takes owner/name"),
        (("--report", "nowhere.md"), "The report nowhere.md cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, capsys, more, message):
    assert exported(TINY, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert exported(TINY, tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
