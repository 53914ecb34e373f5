"""Small commands and data for tests that go through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from vidwm.cli import main

SIZE = 16


def write_episodes(folder: Path, count: int = 6, frames: int = 10, actions: int = 2) -> Path:
    """Episodes in which a bright square moves as the action says."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(count):
        moves = generator.integers(-1, 2, (frames, actions))
        place = np.full(2, SIZE // 2)
        video = np.full((frames, SIZE, SIZE, 3), 40, np.uint8)
        for t in range(frames):
            y, x = place
            video[t, y - 2 : y + 2, x - 2 : x + 2] = 220
            place = np.clip(place + 2 * moves[t, :2], 2, SIZE - 2)
        np.savez(folder / f"episode_{index}.npz", image=video, action=moves.astype(np.float32))
    return folder


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


TOKENIZER = (
    *("--heldout", 0.3),
    *("--height", SIZE, "--width", SIZE, "--widths", "[8, 16]", "--downsample", 4, "--blocks", 1),
    *("--fsq_levels", "[4, 4]", "--batch_size", 4, "--warmup_steps", 2, "--ema_decay", 0.5),
    *("--adversarial_weight", 0.1, "--adversarial_start", 1, "--perceptual_weight", 0),
)
PRETRAIN = (
    *("--context_frames", 2, "--horizon", 2, "--hidden_size", 16, "--num_layers", 1),
    *("--num_heads", 2, "--batch_size", 4, "--micro_batch", 3, "--eval_every", 2),
    *("--heldout", 0.3),
)
FINETUNE = (
    *("--reward", "mae=1,mse=0.5", "--batch_size", 2, "--group_size", 4, "--num_iterations", 2),
    *("--mini_batches", 2, "--micro_batch", 1, "--learning_rate", 1e-3, "--eval_every", 1),
    *("--sharpness_rate", 0.05),
)


def train_stages(root: Path, tokenizer: tuple[object, ...], pretrain: tuple[object, ...]) -> None:
    """Data, and a run of each training stage on it, in folders of their names."""
    data = write_episodes(root / "data")
    common = ("--data", data, "--log_every", 1, "--sample_every", 2)
    run("tokenizer", *common, *tokenizer, "--steps", 3, "--output_dir", root / "tokenizer")
    trained = root / "tokenizer/checkpoints/last/model"
    run(
        *("pretrain", *common, *pretrain, "--steps", 3, "--tokenizer", trained),
        *("--output_dir", root / "pretrain"),
    )
    base = root / "pretrain/checkpoints/last/model"
    run(
        *("finetune", *common, *FINETUNE, "--steps", 2, "--model", base),
        *("--output_dir", root / "finetune"),
    )


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict:
    """Of what the run exported: a world model's transformer, or a tokenizer."""
    model = folder / "checkpoints/last/model"
    file = model / "transformer/model.safetensors"
    return load_file(file if file.exists() else model / "model.safetensors")


def fails(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("vidwm: error: ") and "Traceback" not in "".join(lines)
    return lines[-1]
