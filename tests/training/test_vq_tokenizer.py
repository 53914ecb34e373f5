"""A tokenizer with a learned codebook, which follows whole batches."""

from __future__ import annotations

import pytest

from tests.pipeline import fails, metrics, run, write_episodes
from vidwm.tokenizer.frame import FrameTokenizer, FrameTokenizerConfig

WORDS = ("--steps", 1, "--batch_size", 4, "--perceptual_weight", 0, "--micro_batch", 2)


@pytest.fixture
def words(tmp_path):
    """A command that trains on some data, the codebook of a given tokenizer with it."""
    network = FrameTokenizerConfig(
        height=16, width=16, widths=(8,), blocks=1, quantizer="vq", codebook_size=8, code_dim=4
    )
    FrameTokenizer(network).save_pretrained(tmp_path / "given")
    data = write_episodes(tmp_path / "data")
    return ("tokenizer", "--data", data, *WORDS, "--output_dir", tmp_path / "run")


def test_micro_batches_are_refused_for_a_new_codebook(words, tmp_path, capsys):
    message = fails(capsys, *words, "--quantizer", "vq")
    assert "micro_batch has quantizer = fsq only: vq learns codes by the batch" in message
    assert not (tmp_path / "run").exists()


def test_micro_batches_are_refused_for_a_given_one_unless_it_is_kept(words, tmp_path, capsys):
    given = ("--init_from", tmp_path / "given")
    message = fails(capsys, *words, *given)
    assert "given has a vq codebook, which learns by the batch" in message
    assert not (tmp_path / "run").exists()
    run(*words, *given, "--trained", "networks")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1]
