"""Every operation on this machine's GPU: first whether it is right, then how long it takes.

    python tools/bench_kernels.py [--dtype bf16] [--only group_attention] [--output kernels.csv]

Shapes: `kernel_cases.py`. Sides:
    ours        `fused.py` on a GPU; on a CPU what VIDWM_KERNELS=auto takes, with packed weights
    reference   `reference.py`, the definition
    compile     `torch.compile` of the reference, on a GPU only
    pytorch     what one would write without us: `scaled_dot_product_attention` over a copy of the
                prefix for every rollout, `rms_norm`, `linear`, softmax and `multinomial`
Times are medians of warm calls, on a GPU with a cold L2 (`triton.testing.do_bench`). Without a GPU
the half-precision kernels are not run; `kernel_report.py` and the tests look at them.
Exit code 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from case import Case
from kernel_cases import cases
from kernel_peers import PYTORCH, Tensors
from torch.utils._pytree import tree_leaves
from vidwm_kernels.dispatch import pick
from vidwm_kernels.linear import packed
from vidwm_kernels.testing import assert_close

from vidwm.provenance import git_commit

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def check(case: Case, dtype: torch.dtype, device: str) -> str | None:
    """What is wrong with our result, compared with the reference; None if nothing is."""
    tensors = case.make(dtype, device)
    twin = copy.deepcopy(tensors)
    found = _ours(case, device)(tensors)
    expected = case.function("reference")(twin)
    try:
        if case.op == "sample_tokens":
            agree = found.tokens == expected.tokens
            # In half precision the states are rounded before the product, so near-ties may flip.
            if agree.float().mean() < (1.0 if dtype == torch.float32 else 0.9):
                raise AssertionError(f"{int((~agree).sum())} of {agree.numel()} tokens differ")
            found, expected = (x.logprobs[agree] for x in (found, expected))
        for ours, right in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            assert_close(case.op, ours, right, dtype)
        for name in ("suffix_k", "suffix_v"):
            if name in tensors:
                assert_close(case.op, tensors[name], twin[name], dtype)
    except AssertionError as error:
        return " ".join(str(error).split())
    return None


def sides(case: Case, device: str) -> dict[str, Callable[[Tensors], Any]]:
    """What is timed."""
    found = {"ours": _ours(case, device), "reference": case.function("reference")}
    if device == "cuda":
        found["compile"] = torch.compile(case.function("reference"))
    return found | {"pytorch": PYTORCH[case.op]}


def _ours(case: Case, device: str) -> Callable[[Tensors], Any]:
    picked = pick(case.op, torch.device(device))
    return lambda tensors: picked(**tensors, **case.settings)


def _is_matrix(name: str, value: Any) -> bool:
    return name in ("weight", "head") and value.ndim == 2


def microseconds(work: Callable[[], Any], device: str) -> float:
    """Median time of a warm call."""
    if device == "cuda":
        from triton.testing import do_bench

        return 1e3 * float(do_bench(work, return_mode="median"))
    work()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


@torch.no_grad()
def main(argv: list[str] | None = None) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "bf16" if device == "cuda" else "fp32"
    parser.add_argument("--dtype", choices=DTYPES, default=default)
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    parser.add_argument("--output", type=Path, help="also write the times to this CSV file")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    dtype = DTYPES[options.dtype]
    picked = [case for case in cases() if options.only in case.name]
    wrong = {case.name: check(case, dtype, device) for case in picked}
    for name, error in wrong.items():
        print(f"{name:28s} {'right' if error is None else f'WRONG: {error}'}", flush=True)
    if any(wrong.values()):
        return 1
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu x{torch.get_num_threads()}"
    rows = []
    for case in picked:
        tensors = case.make(dtype, device)
        ready = {k: packed(v) if _is_matrix(k, v) else v for k, v in tensors.items()}
        times = {
            name: microseconds(partial(side, ready if name == "ours" else tensors), device)
            for name, side in sides(case, device).items()
        }
        rate = case.moved(tensors) / times["ours"] / 1e3
        others = "  ".join(
            f"{name} {t:.0f} us ({t / times['ours']:.2f}x)"
            for name, t in times.items()
            if name != "ours"
        )
        print(f"{case.name:28s} ours {times['ours']:.0f} us, {rate:.0f} GB/s  {others}", flush=True)
        rows += [
            (case.op, case.variant, options.dtype, name, f"{t:.2f}", where, git_commit() or "")
            for name, t in times.items()
        ]
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("op", "variant", "dtype", "side", "us", "device", "commit"))
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
