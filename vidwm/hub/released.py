"""Released checkpoints of RLVR-World, from the Hugging Face Hub or a folder, as a world model.

A released model is two directories, a tokenizer and a transformer, without frame rate or action
ranges; those of RT-1, which all releases were trained on, are `world_model/presets.py`. Single-step
models come with a per-frame tokenizer, multi-step models with a compressive one.
"""

from __future__ import annotations

from pathlib import Path

from vidwm.errors import UserError, first_line
from vidwm.hub_config import ImportConfig
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import open_released
from vidwm.world_model.llama_files import read_config
from vidwm.world_model.presets import RT1_MULTI_STEP_IDS, rt1_bins, rt1_setting
from vidwm.world_model.transformer import Transformer
from vidwm.world_model.world_model import WorldModel

ORIGIN = (
    "Imported from transformer `{transformer}` and tokenizer `{tokenizer}` (RLVR-World, arXiv "
    "2505.13934)."
)


def import_released(config: ImportConfig) -> Path:
    """Write the world model directory `config.output_dir`; UserError says what does not fit."""
    if config.output_dir.exists():
        raise UserError(f"{config.output_dir} exists already: name another --output_dir.")
    transformer = located(config.transformer)
    kind = "compressive" if read_config(transformer).vocab_size == RT1_MULTI_STEP_IDS else "frame"
    named = config.tokenizer or f"thuml/rt1-{kind}-tokenizer"
    tokenizer = open_released(located(named), config.height, config.width)
    compressive = isinstance(tokenizer, CompressiveTokenizer)
    setting = rt1_setting(multi_step=compressive)
    model = WorldModel(tokenizer, Transformer.from_pretrained(transformer), rt1_bins(), setting)
    origin = ORIGIN.format(transformer=config.transformer, tokenizer=named)
    model.save_pretrained(config.output_dir, card=model.card(origin))
    return config.output_dir


def located(name: str) -> Path:
    """The folder `name`, or else a copy of the Hub's repository of that name."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{name} is neither a folder nor a repository of the Hugging Face Hub, owner/name."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"Cannot fetch {name} from the Hugging Face Hub ({first_line(error)}): download "
            f"https://huggingface.co/{name} into a folder and name that instead."
        ) from error
