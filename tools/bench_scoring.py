"""Decoding and scoring rollouts: this scorer against the plain way, in one interleaved run.

    python tools/bench_scoring.py tiny [--contexts 2] [--rounds 5] [--threads 2]
    python tools/bench_scoring.py tiny-rollouts --contexts 16
    python tools/bench_scoring.py rt1 --contexts 1

Metrics: a perceptual distance, MAE and SSIM, of every predicted frame. The plain way decodes 8
frames at a time in NCHW, keeps them all, repeats the true frames for every rollout of a group,
runs both through the perceptual network and convolves for SSIM (`scoring_peers.py`). Floor: the
convolutions and products of this scorer's own pass, at the rate of the machine's best convolution.
Memory: of the tensors that are made, at the peak, without the scratch of libraries.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from scoring_peers import PlainLPIPS, plain_decode, plain_score
from scoring_shapes import SHAPES, Shape
from timing import best, timed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidwm.provenance import git_commit
from vidwm.reward.live_memory import peak_bytes
from vidwm.reward.scorer import Scorer

MB = 1e6


def stages(scorer: Scorer, shape: Shape, rows: Tensor) -> dict[str, float]:
    """Seconds of the parts of a pass over distinct rows of tokens, each on its own."""
    (net,) = scorer.networks.values()
    (chunk,) = scorer.fits.values()
    decode = shape.tokenizer.decode
    frames = [decode(part) for part in rows.split(chunk)]
    return {
        "decode": best(lambda: [decode(part) for part in rows.split(chunk)], 2),
        "features": best(lambda: [net.features(part) for part in frames], 2),
        "true features": best(lambda: net.true_features(shape.true.flatten(0, 1)), 2),
    }


def convolution_rate() -> float:
    """FLOP/s of a 3x3 convolution over 128 channels, the bulk of decoders, in channels-last."""
    x = torch.randn(8, 128, 64, 64).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    return 8 * 64 * 64 * 2 * 9 * 128 * 128 / best(lambda: conv(x), 8)


def report(
    shape: Shape,
    scorer: Scorer,
    sides: dict[str, Callable[[], dict[str, Tensor]]],
    seconds: dict[str, list[float]],
    gaps: dict[str, float],
) -> None:
    """Print what was found."""
    frames = shape.tokens.shape[:3].numel()
    rows = shape.tokens.flatten(0, 2).unique(dim=0)
    B, G, T, _ = shape.tokens.shape
    print(
        f"{B} contexts x {G} rollouts x {T} frames of "
        f"{shape.true.shape[-2]} x {shape.true.shape[-1]}, {shape.perceptual} + mae + ssim, fp32, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, commit {git_commit()}; "
        f"{len(seconds['plain'])} interleaved rounds"
    )
    print(
        f"{1 - len(rows) / frames:.1%} of the frames are duplicates; largest difference "
        + ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    )
    ours = seconds["vidwm"]
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = sorted(t / o for t, o in zip(times, ours, strict=True))
        print(
            f"{name:6s} {median:8.3f} s {frames / median:8.1f} frames/s, "
            f"{statistics.median(ratios):5.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] times vidwm's "
            f"seconds, peak {peak_bytes(sides[name]) / MB:.0f} MB"
        )
    median = statistics.median(ours)
    parts = stages(scorer, shape, rows)
    parts["the rest"] = median - sum(parts.values())
    print("shares: " + ", ".join(f"{name} {part / median:.0%}" for name, part in parts.items()))
    with FlopCounterMode(display=False) as counter:
        sides["vidwm"]()
    flops, rate = counter.get_total_flops(), convolution_rate()
    print(
        f"floor {flops / rate:.3f} s, {flops / rate / median:.0%} of the time: "
        f"{flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
    )


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--contexts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = SHAPES[options.shape](options.contexts)
    scorer = Scorer((shape.perceptual, "mae", "ssim"))
    plain = partial(plain_score, plain_decode(shape.tokenizer), PlainLPIPS(shape.perceptual))
    sides = {
        "vidwm": lambda: scorer.score(shape.tokens, shape.true, decode=shape.tokenizer.decode),
        "plain": lambda: plain(shape.tokens, shape.true),
    }
    found = {name: side() for name, side in sides.items()}
    gaps = {
        name: float(
            (value - found["plain"][name.replace(shape.perceptual, "perceptual")]).abs().max()
        )
        for name, value in found["vidwm"].items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds[name].append(timed(side))
            print(f"   {name} {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    report(shape, scorer, sides, seconds, gaps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
