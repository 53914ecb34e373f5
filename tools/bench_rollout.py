"""Group rollouts: this engine against `transformers` on the same weights, in one interleaved run.

    python tools/bench_rollout.py rt1-single [--rounds 3] [--new-tokens 64] [--threads 2]
    python tools/bench_rollout.py tiny
    python tools/bench_rollout.py rt1-single --sides engine --group 64     (memory, cost per token)

Sides, fp32 on a CPU and bf16 on a GPU, 16 futures of one context:
    engine      vidwm.rollout, plain decoding
    drafts      the same with previous-frame drafts, which fall back to plain decoding where the
                context moves too much for them, as with random weights it does
    generate    `generate` as the reference implementation uses it: the prompt copied 16 times, and
                of several frames each a call, with a prefill of everything before it
    static      the best a user could write with `transformers`: one prefill of one prompt, a static
                cache expanded to 16, then token by token, softmax and multinomial
Floor: the machine's own best time for the matrix products of all steps at these shapes (weights
plain or packed, whichever is faster), plus one read of prefix and suffix caches at its measured
bandwidth. Memory is that of all sides, above what the process held before the model.
`--new-tokens` stops after so many positions and says so; ratios of cut runs are those of cut runs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from rollout_cases import SHAPES, Shape, cut, moved
from timing import best, timed
from torch import Tensor
from vidwm_kernels.linear import linear, packed

from vidwm.provenance import git_commit
from vidwm.rollout.draft import SLACK
from vidwm.rollout.engine import decode_window
from vidwm.rollout.graph import decoder_class
from vidwm.rollout.kv_cache import cache_bytes
from vidwm.rollout.sampling import Sampling

GROUP = 16
GB = 1e9
WARM_UP_POSITIONS = 48


def run_engine(shape: Shape, drafts: bool, sampling: Sampling | None = None) -> Tensor:
    layout = shape.window.layout
    decoder = decoder_class(shape.prompt.device)(
        shape.transformer,
        layout.codebook_size,
        sampling or Sampling(),
        shape.transformer.dtype,
        SLACK,
    )
    found = decode_window(shape.transformer, decoder, shape.prompt, shape.window, drafts=drafts)
    if drafts:
        print(f"      {found.tokens_per_pass:.2f} tokens a pass", file=sys.stderr)
    return found.tokens


def sides_of(shape: Shape, names: list[str]) -> dict[str, Callable[..., Tensor]]:
    """What is timed, by name."""
    sides: dict[str, Callable[..., Tensor]] = {
        "engine": partial(run_engine, drafts=False),
        "drafts": partial(run_engine, drafts=True),
    }
    if {"static", "generate"} & set(names):
        from rollout_peers import peer_of, run_generate, run_static

        peer = peer_of(shape.transformer)
        sides["static"] = partial(run_static, peer)
        sides["generate"] = partial(run_generate, peer)
    return {name: sides[name] for name in names}


def check(shape: Shape, sides: dict[str, Callable[..., Tensor]]) -> None:
    """Say how far sides agree, of what can be compared: each draws by a randomness of its own."""
    if {"engine", "drafts"} <= sides.keys():
        same = (sides["engine"](shape) == sides["drafts"](shape)).float().mean()
        print(f"tokens of drafts equal to plain ones: {100 * same:.4f} %")
    if "static" in sides:
        likeliest = run_engine(shape, False, Sampling(temperature=0.0))[0]
        same = (likeliest == sides["static"](shape, greedy=True)).float().mean()
        print(f"likeliest tokens of the static cache equal to ours: {100 * same:.4f} %")


def floor_seconds(shape: Shape, group: int) -> tuple[float, float]:
    """Seconds of the decode steps that the machine's own products and reads allow; and of one."""
    config = shape.transformer.config
    device = shape.prompt.device
    randn = partial(torch.randn, device=device, dtype=shape.transformer.dtype)
    D, inner, heads = config.hidden_size, config.intermediate_size, config.head_dim
    kv = 2 * config.num_key_value_heads * heads
    sizes = [(D + kv, D), (D, D), (2 * inner, D), (D, inner)] * config.num_hidden_layers
    sizes.append((shape.window.layout.codebook_size, D))
    weights = [randn(n, k) for n, k in sizes]
    rows = {k: randn(group, k) for _, k in sizes}
    product = best(lambda: [torch.nn.functional.linear(rows[w.shape[1]], w) for w in weights])
    if device.type == "cpu":
        ready = [packed(weight) for weight in weights]
        product = min(product, best(lambda: [linear(rows[w.shape[1]], w) for w in ready]))
    big = randn(2**26)
    bandwidth = big.numel() * big.element_size() / best(big.sum)
    per_token = config.num_hidden_layers * kv * big.element_size()
    steps = shape.window.frames * shape.window.layout.tokens_per_frame - 1
    caches = per_token * (shape.prompt.shape[1] + group * shape.new / 2)
    one = product + caches / bandwidth
    return steps * one, one


def peak_bytes() -> int:
    """Most memory that was in use at a time, of the GPU if there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--group", type=int, default=GROUP)
    parser.add_argument("--new-tokens", type=int, default=0, help="cut the run (0: all)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sides", default="engine,drafts,static,generate")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    before = peak_bytes()
    shape = SHAPES[options.shape](options.group)
    if torch.cuda.is_available():
        shape = moved(shape, torch.device("cuda"), torch.bfloat16)
    if options.new_tokens:
        shape = cut(shape, options.new_tokens)
    sides = sides_of(shape, options.sides.split(","))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(cut(shape, WARM_UP_POSITIONS))
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds[name].append(timed(partial(side, shape)))
            print(f"   {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    peak = peak_bytes() - before
    check(shape, sides)
    report(shape, options, seconds, peak)
    return 0


def report(
    shape: Shape, options: argparse.Namespace, seconds: dict[str, list[float]], peak: int
) -> None:
    """Print what was found."""
    group, config, dtype = options.group, shape.transformer.config, shape.transformer.dtype
    drawn = shape.window.states.numel()
    prefill = best(partial(shape.transformer.prefill, shape.prompt))
    floor, step = floor_seconds(shape, group)
    print(
        f"{shape.name}: prompt {shape.prompt.shape[1]}, {shape.new} positions, {group} rollouts, "
        f"{str(dtype).removeprefix('torch.')} on {shape.prompt.device.type}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, commit {git_commit()}; "
        f"{options.rounds} interleaved rounds"
    )
    print(
        f"prefill of one prompt {prefill:.2f} s; floor of the decode steps {floor:.2f} s, "
        f"{1e3 * step:.1f} ms each"
    )
    ours = seconds.get("engine", next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = sorted(t / o for t, o in zip(times, ours, strict=True))
        line = (
            f"{name:9s} {median:8.2f} s {drawn / median:8.1f} tokens/s, "
            f"{statistics.median(ratios):6.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] times the "
            f"engine's seconds"
        )
        # The other sides prefill more, or take other steps than the floor counts.
        if name in ("engine", "static") and median > prefill:
            line += (
                f", prefill {prefill / median:.0%}, floor/decode {floor / (median - prefill):.0%}"
            )
        print(line)
    weights = sum(p.numel() * p.element_size() for p in shape.transformer.parameters())
    caches = [
        cache_bytes(
            layers=config.num_hidden_layers,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            prefix=prefix,
            suffix=suffix,
            group_size=group,
            size=dtype.itemsize,
        )
        for prefix, suffix in ((shape.prompt.shape[1], 0), (0, shape.new))
    ]
    print(
        f"peak memory {peak / GB:.2f} GB; weights {weights / GB:.2f}, prefix {caches[0] / GB:.2f}, "
        f"suffixes {caches[1] / GB:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
