"""What training reads in a second: a token cache against decoding and tokenising, interleaved.

    python tools/bench_loader.py clips [--data assets/sample] [--model assets/tiny] [--threads 1]
    python tools/bench_loader.py epoch [--episodes 100000]
    python tools/bench_loader.py memory

clips: batches of random windows of some episodes, the same tokens on all sides: by memory map in
this process, by a worker process, from a cache of frames and a tokenizer, and by decoding the
frames of each clip and tokenising them. Nothing is kept in between.
epoch: a new process opens a token cache of so many synthetic episodes (its files are empty), splits
it and draws the first batch: seconds, and memory beyond that of the imports. memory: new processes
read as many clips from caches of more and more frames; what they hold beside the imports and the
pages of mapped files, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from loader_cases import grow_cache, grown_mb, made_up, memory_now
from timing import timed
from torch import Tensor

from vidwm.data.cache import CachedFrames, CachedTokens
from vidwm.data.cache_folder import contents_of, read_contents
from vidwm.data.cache_writer import CacheWork, write_cache
from vidwm.data.clip import EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.loader import Loader, Order
from vidwm.data.sampler import ClipSource, split_episodes
from vidwm.data.selection import Selection
from vidwm.data.windows import windows_of
from vidwm.provenance import git_commit
from vidwm.training.caching import TokenizerFolder, token_contents
from vidwm.training.token_windows import CachedWindows
from vidwm.world_model.world_model import WorldModel

CPU = torch.device("cpu")
Side = Callable[[range], list[Tensor]]


def sides(dataset: EpisodeDataset, model: Path, folder: Path, batch_size: int) -> dict[str, Side]:
    """Ways to the tokens (B, T, N) of some steps."""
    opened = WorldModel.from_pretrained(model)
    layout, skip = opened.layout, opened.setting.frame_skip
    encode = TokenizerFolder(model / "tokenizer", CPU)
    contents = token_contents(dataset, encode.tokenizer, model / "tokenizer")
    tokens = CacheWork(dataset=dataset, contents=contents, folder=folder / "t", encode=encode)
    plain = contents_of(dataset, kind="frames", size=opened.size)
    write_cache(tokens)
    write_cache(CacheWork(dataset=dataset, contents=plain, folder=folder / "f"))
    episodes = range(len(dataset))
    found = windows_of(dataset.lengths, episodes, layout.num_frames, skip)
    cached = CachedWindows(CachedTokens(folder / "t", contents), found, layout, skip, dataset)
    order = Order(num_windows=len(found), batch_size=batch_size, seed=0)

    def mapped(workers: int, steps: range) -> list[Tensor]:
        loader = Loader(cached.read, order, steps=steps.stop, device=CPU, num_workers=workers)
        clips = [loader[step] for step in steps]
        return [torch.cat([clip.context, clip.tokens], dim=1) for clip in clips]

    def encoded(source: ClipSource, steps: range) -> list[Tensor]:
        batches = (source.batch(order.numbers(step)) for step in steps)
        return [encode(batch.float_frames()) for batch in batches]

    def source(data: EpisodeDataset) -> ClipSource:
        return ClipSource(
            data,
            clip_frames=layout.num_frames,
            frame_skip=skip,
            episodes=episodes,
            size=opened.size,
            cache_bytes=0,
        )

    return {
        "tokens, mapped": partial(mapped, 0),
        "tokens, 1 worker": partial(mapped, 1),
        "frames, mapped": partial(encoded, source(CachedFrames(folder / "f"))),
        "decoded": partial(encoded, source(dataset)),
    }


@torch.no_grad()
def clips(options: argparse.Namespace) -> None:
    """Clips per second of every side, and how many times those of the last."""
    whole = open_dataset(options.data)
    numbers = range(min(options.episodes or 40, len(whole)))
    dataset = Selection(whole, numbers, whole.episode_ids)
    with tempfile.TemporaryDirectory() as folder:
        found = sides(dataset, options.model, Path(folder), options.batch_size)
        expected = found["decoded"](range(2))
        for name, side in found.items():
            same = [torch.equal(a, b) for a, b in zip(side(range(2)), expected, strict=True)]
            assert all(same), f"{name} gives other tokens"
        rates: dict[str, list[float]] = {name: [] for name in found}
        for turn in range(options.rounds):
            for name, side in found.items():
                steps = options.steps if name.startswith("tokens") else max(1, options.steps // 20)
                seconds = timed(partial(side, range(turn, turn + steps)))
                rates[name].append(steps * options.batch_size / seconds)
    print(
        f"{options.data}, {len(dataset)} episodes, batches of {options.batch_size}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, commit {git_commit()}; "
        f"{options.rounds} interleaved rounds; equal tokens on all sides"
    )
    for name, own in rates.items():
        ratios = sorted(a / b for a, b in zip(own, rates["decoded"], strict=True))
        print(
            f"{name:17s} {statistics.median(own):9.1f} clips/s, {statistics.median(ratios):6.1f} "
            f"[{ratios[0]:.1f}, {ratios[-1]:.1f}] times those of decoding and tokenising"
        )


def epoch(options: argparse.Namespace) -> None:
    """Seconds and memory to the window numbers of the first batch."""
    with tempfile.TemporaryDirectory() as folder:
        contents = made_up(Path(folder), options.episodes or 100_000)
        frames = sum(contents.lengths)
        print(f"{len(contents.lengths):,} episodes, {frames:,} frames:", flush=True)
        subprocess.run([sys.executable, __file__, "--child", folder, "epoch"], check=True)


def start_epoch(folder: Path) -> None:
    """What pretraining does with the metadata of a cache before its first step."""
    before = memory_now()
    began, cpu = time.perf_counter(), time.process_time()
    contents = read_contents(folder)
    CachedTokens(folder, contents)
    train, _ = split_episodes(contents.all_episode_ids, 0.1, 0)
    windows = windows_of(contents.lengths, train, 6, 1)
    Order(num_windows=len(windows), batch_size=32, seed=0).numbers(0)
    print(
        f"{len(windows):,} windows, first batch drawn after {time.perf_counter() - began:.2f} s "
        f"({time.process_time() - cpu:.2f} s of CPU time), "
        f"at most {grown_mb('peak', before):.0f} MB"
    )


def memory(options: argparse.Namespace) -> None:
    """Of one process for each size of cache."""
    for episodes in (100, 400, 1600):
        with tempfile.TemporaryDirectory() as folder:
            grow_cache(Path(folder), episodes)
            subprocess.run([sys.executable, __file__, "--child", folder, "memory"], check=True)


def stream(folder: Path) -> None:
    """Read 20,000 random clips of a cache."""
    before = memory_now()
    contents = read_contents(folder)
    tokens = CachedTokens(folder, contents)
    windows = windows_of(contents.lengths, range(len(contents.lengths)), 6, 1)
    order = Order(num_windows=len(windows), batch_size=100, seed=0)
    for step in range(200):
        for window in (windows[number] for number in order.numbers(step)):
            tokens.clip(window.episode, window.start, 6, 1)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(
        f"{len(contents.lengths):5,} episodes, {sum(contents.lengths):9,} frames, {size:6.1f} MB "
        f"on disk: {grown_mb('now', before):5.1f} MB after 20,000 clips"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("clips", "epoch", "memory"))
    parser.add_argument("--data", type=Path, default=Path("assets/sample"))
    parser.add_argument("--model", type=Path, default=Path("assets/tiny"))
    parser.add_argument("--episodes", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.child:
        {"epoch": start_epoch, "memory": stream}[options.what](options.child)
    else:
        {"clips": clips, "epoch": epoch, "memory": memory}[options.what](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
