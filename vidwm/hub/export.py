"""`vidwm export`: a world model as a folder for others, and if asked for on the Hugging Face Hub.

A world model directory already is in Hugging Face form; exporting opens it, which checks it, and
writes it again with a card, in the precision asked for.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vidwm.errors import UserError, first_line
from vidwm.hub.trained_by import training_section
from vidwm.hub_config import ExportConfig
from vidwm.world_model.world_model import WorldModel

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export(config: ExportConfig) -> Path:
    """Write `config.output_dir` and push it; UserError says what is in the way."""
    if config.output_dir.exists():
        raise UserError(f"{config.output_dir} exists already: name another --output_dir.")
    if config.push and (config.push.count("/") != 1 or "" in config.push.split("/")):
        raise UserError(f"--push takes owner/name of a Hub repository, got {config.push!r}.")
    report = ""
    if config.report is not None:
        try:
            report = config.report.read_text(encoding="utf-8").replace("\n#", "\n##").lstrip("# ")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The report {config.report} cannot be read ({error}).") from error
    model = WorldModel.from_pretrained(config.model)
    held_out = f"## Held-out\n\n{report}" if report else ""
    card = model.card(training_section(config.model), held_out)
    model.save_pretrained(config.output_dir, card=card, dtype=DTYPES[config.dtype])
    if config.push:
        _push(config.output_dir, config.push, private=config.private)
    return config.output_dir


def _push(folder: Path, name: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export from vidwm")
    except Exception as error:  # the kinds depend on the HTTP library of the installed version
        raise UserError(
            f"{folder} is written, but cannot be pushed to {name} ({first_line(error)}): "
            f"log in with `hf auth login` and run `hf upload {name} {folder}`."
        ) from error
