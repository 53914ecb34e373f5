"""One step of every RT-1 config at its full size, on frames of noise: peak memory and seconds.

    python tools/full_size.py [single multi] [--output runs/full_size]

Tokenizer, pretraining and GRPO (which samples, decodes and scores) in turn, each a process of its
own, in fp32 with as few clips as there can be, and activations of the multi-step tokenizer
recomputed: that the networks of the paper build, train, roll out and are scored on this machine is
what it shows. Weights are random, so nothing is learned.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FRAMES, EPISODES = 40, 3
MODEL = "checkpoints/last/model"


def write_episodes(folder: Path) -> None:
    """Episodes of noise, 256 x 320, with the 13 action dimensions of RT-1."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(EPISODES):
        frames = generator.integers(0, 256, (FRAMES, 256, 320, 3), dtype=np.uint8)
        actions = generator.uniform(-1, 1, (FRAMES, 13)).astype(np.float32)
        np.savez(folder / f"{number}.npz", image=frames, action=actions)


def commands(kind: str, data: Path, output: Path) -> dict[str, list[str]]:
    """Settings of each stage, beside those of its config."""
    folders = {stage: output / f"{stage}_{kind}" for stage in ("tokenizer", "pretrain", "finetune")}
    own = {
        "tokenizer": "--perceptual st_lpips_vgg --adversarial_start 0 --micro_batch 0 --heldout 0",
        "pretrain": f"--tokenizer {folders['tokenizer'] / MODEL} --heldout 0 --eval_every 0",
        "finetune": f"--model {folders['pretrain'] / MODEL} --group_size 2 --mini_batches 1 "
        "--micro_batch 0 --reward st_lpips_vgg=1,mae=1 --eval_every 0",
    }
    if kind == "multi":
        own["tokenizer"] += " --gradient_checkpointing true"
    shared = "--steps 1 --batch_size 1 --precision fp32 --save_every 0 --sample_every 0"
    return {
        stage: [
            *("--config", str(ROOT / f"configs/{stage}_rt1_{kind}.yaml"), "--data", str(data)),
            *("--output_dir", str(folder), *shared.split(), *own[stage].split()),
        ]
        for stage, folder in folders.items()
    }


def run(stage: str, words: list[str]) -> tuple[float, float]:
    """Seconds and peak resident memory in GB of one command; SystemExit when it fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    code = "import sys; from vidwm.cli import main; sys.exit(main())"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, stage, *words], env=os.environ | {"PYTHONPATH": paths}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vidwm {stage} {' '.join(words)} failed")
    return time.monotonic() - began, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=["single", "multi"])
    parser.add_argument("--output", type=Path, default=Path("runs/full_size"))
    options = parser.parse_args()
    data = options.output / "data"
    write_episodes(data)
    print("| config | seconds | peak GB |\n| --- | --- | --- |", flush=True)
    for kind in options.kinds:
        for stage, words in commands(kind, data, options.output).items():
            seconds, memory = run(stage, words)
            print(f"| {stage}_rt1_{kind} | {seconds:.0f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
