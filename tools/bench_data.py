"""Reading recordings: this package against the libraries called directly, in one interleaved run.

    python tools/bench_data.py h264            or h264-short, h264-pairs, hevc, av1, av1-long
    python tools/bench_data.py rlds --path my_rlds/1.0.0

Every round reads the same random items with every side, in an order that rotates. Seconds are of
the wall clock, and of the processor where it is shared with other work. "kept" is a reader that
stays open, "opened" one for each clip. What the sides return is compared first. `rlds` needs the
package tfrecord.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from data_cases import ENCODERS, Case, Side, rlds_case, video_case

from vidwm.provenance import git_commit

ITEMS_A_ROUND = 8


def differences(case: Case, items: list[int]) -> dict[str, int]:
    """Name of a side -> how many of these items it reads otherwise than the first side."""
    ours, *others = case.sides
    found = dict.fromkeys(others, 0)
    for item in items:
        expected = case.sides[ours](item)
        for name in others:
            pairs = zip(case.sides[name](item), expected, strict=True)
            found[name] += not all(np.array_equal(a, b) for a, b in pairs)
    return found


def seconds(side: Side, items: list[int]) -> tuple[float, float]:
    """Of the wall clock and of the processor, per item."""
    wall, processor = time.perf_counter(), time.process_time()
    for item in items:
        side(item)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall / len(items), processor / len(items)


def report(case: Case, times: dict[str, list[tuple[float, float]]], wrong: dict[str, int]) -> None:
    """Print what was found."""
    rounds = len(times["vidwm"])
    print(f"{case.what}: {rounds} interleaved rounds, commit {git_commit()}")
    print(f"{'':18s}  ms wall  processor   times vidwm's: wall            processor")
    for name, measured in times.items():
        line = f"{name:18s}"
        ratios = ""
        for kind in (0, 1):
            own = [t[kind] for t in measured]
            pairs = zip(own, (t[kind] for t in times["vidwm"]), strict=True)
            ratio = sorted(a / b for a, b in pairs)
            line += f" {1e3 * statistics.median(own):9.2f}"
            low, high = ratio[rounds // 10], ratio[-1 - rounds // 10]
            ratios += f"   {statistics.median(ratio):5.2f} [{low:.2f}, {high:.2f}]"
        print(line + ratios + (f"   {wrong[name]} READ OTHERWISE" if wrong.get(name) else ""))
    for name, why in case.absent.items():
        print(f"{name:18s} absent: {why}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=(*ENCODERS, "rlds"))
    parser.add_argument("--path", type=Path, help="the folder with dataset_info.json, for rlds")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(argv)
    if options.case == "rlds" and options.path is None:
        parser.error("rlds needs --path")
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        if options.case == "rlds":
            case = rlds_case(options.path)
        else:
            case = video_case(options.case, Path(folder))
        wrong = differences(case, [draw.randrange(case.items) for _ in range(ITEMS_A_ROUND)])
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in case.sides}
        for turn in range(options.rounds):
            items = [draw.randrange(case.items) for _ in range(min(ITEMS_A_ROUND, case.items))]
            names = list(case.sides)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(seconds(case.sides[name], items))
    report(case, times, wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main())
