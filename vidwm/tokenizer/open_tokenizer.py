"""Which kind of per-frame tokenizer a directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from vidwm.files import read_json
from vidwm.tokenizer.frame import FrameTokenizer
from vidwm.tokenizer.vqgan_frame import CLASS_NAME, VQGANTokenizer

Tokenizer: TypeAlias = FrameTokenizer | VQGANTokenizer


def open_tokenizer(directory: Path) -> Tokenizer:
    """Open what `save_pretrained` of either kind wrote; UserError when it is neither."""
    if read_json(directory / "config.json").get("_class_name") == CLASS_NAME:
        return VQGANTokenizer.from_pretrained(directory)
    return FrameTokenizer.from_pretrained(directory)
