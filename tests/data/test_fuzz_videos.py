"""Damaged videos, by every library: frames or a sentence, never the end of the process, or none.

Decoders are written in C, so each library reads in a process of its own, with a time limit. That
its pictures are right cannot be asked for: an mp4 file has no checksums. `VIDWM_FUZZ_ROUNDS` as in
test_fuzz.py.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.test_fuzz import damage
from tests.data.test_video import KINDS, REFUSED, SIZE, encode
from vidwm.data.video import read_frames
from vidwm.data.video_backends import CHOICES, why_not
from vidwm.errors import UserError

ROUNDS = int(os.environ.get("VIDWM_FUZZ_ROUNDS", 60))
SECONDS = 60 + ROUNDS


def read_damaged(files: list[Path], backend: str, seed: int) -> None:
    """Half of the rounds damage what stands behind the pictures: where each of them lies."""
    chance = random.Random(seed)
    contents = [file.read_bytes() for file in files]
    bad = files[0].with_name("bad.mp4")
    for _ in range(ROUNDS):
        content = chance.choice(contents)
        keep = content.rfind(b"moov") if chance.random() < 0.5 else 0
        bad.write_bytes(content[:keep] + damage(content[keep:], False, chance))
        for start in (0, 12, 5, 22):
            try:
                frames = read_frames(bad, start, 8, backend=backend)
            except UserError as error:
                assert str(bad) in str(error)
            else:
                assert frames.shape[0] == 8 and frames.dtype == np.uint8


@pytest.mark.parametrize("backend", CHOICES[1:])
def test_no_damage_ends_the_process(
    tmp_path: Path, moving: Callable[..., np.ndarray], backend: str
) -> None:
    if why_not(backend):
        pytest.skip(f"{backend} does not decode here: {why_not(backend)}")
    files = []
    for kind in ("h264", "hevc", "av1", "vp9"):
        encoder, pix_fmt, options = KINDS[kind]
        if kind in REFUSED[backend] or encoder not in av.codecs_available:
            continue
        path = tmp_path / f"{kind}.mp4"
        files.append(encode(path, moving(30, *SIZE), encoder, pix_fmt, options))
    reader = multiprocessing.get_context("fork").Process(
        target=read_damaged, args=(files, backend, 1)
    )
    reader.start()
    reader.join(timeout=SECONDS)
    reader.kill()
    reader.join()
    assert reader.exitcode == 0
