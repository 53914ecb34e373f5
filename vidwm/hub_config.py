"""What `vidwm import` and `vidwm export` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from vidwm.options import Options, option, required


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Options):
    """A released RLVR-World model, single- or multi-step, as a world model."""

    positional: ClassVar[tuple[str, ...]] = ("transformer",)

    transformer: str = required("Hub repository or folder, such as thuml/rt1-world-model-...")
    tokenizer: str | None = option(None, "Hub repository or folder (none: RT-1's of that kind)")
    output_dir: Path = required("folder of the world model; must not exist")
    height: int = option(256, "of its frames, in pixels", at_least=16)
    width: int = option(320, "of its frames, in pixels", at_least=16)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Options):
    """A world model as a folder for others."""

    model: Path = required("world model folder")
    output_dir: Path = required("folder to write; must not exist")
    dtype: Literal["fp32", "fp16", "bf16"] = option("fp32", "of the weights")
    report: Path | None = option(None, "report.md of `vidwm evaluate`, for the card")
    push: str | None = option(None, "also upload it to this Hub repository, owner/name")
    private: bool = option(True, "whether a repository made for it is private")
