"""Which kind of tokenizer a directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from vidwm.files import read_json
from vidwm.tokenizer import compressive, vqgan_frame
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.vqgan_frame import VQGANTokenizer

FramewiseTokenizer: TypeAlias = FrameTokenizer | VQGANTokenizer
Tokenizer: TypeAlias = FramewiseTokenizer | CompressiveTokenizer


def open_tokenizer(directory: Path) -> Tokenizer:
    """Open what `save_pretrained` of any kind wrote; UserError when it is none."""
    name = read_json(directory / "config.json").get("_class_name")
    if name == vqgan_frame.CLASS_NAME:
        return VQGANTokenizer.from_pretrained(directory)
    if name == compressive.CLASS_NAME:
        return CompressiveTokenizer.from_pretrained(directory)
    return FrameTokenizer.from_pretrained(directory)


def open_released(
    directory: Path, height: int, width: int
) -> VQGANTokenizer | CompressiveTokenizer:
    """Open a released RLVR-World tokenizer, of whichever kind its config describes."""
    if "dyn_fsq_levels" in read_json(directory / "config.json"):
        return CompressiveTokenizer.from_released(directory, height, width)
    return VQGANTokenizer.from_released(directory, height, width)
