"""What every command can be told about recordings, and the settings of `vidwm data`.

As in `vidwm.config`: one frozen dataclass a command, one line of help a field, no file opened.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from vidwm.options import Options, changed, option, required


@dataclass(frozen=True, kw_only=True)
class RecordingOptions(Options):
    """Which recordings are read."""

    data: Path = required(
        "dataset: LeRobot, RLDS, HDF5, npz, videos with a manifest, or the Hub's owner/name; or a "
        "mixture of them: a YAML or JSON file of `path: weight` lines"
    )
    camera: str | None = option(
        None, "camera to read; a,b: two views, an episode each; a+b: both tiled into one frame"
    )
    split: str | None = option(None, "split of the dataset to read, where it names some")


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """What a row of actions means."""

    action_form: Literal["recorded", "delta", "state", "state_delta"] = option(
        "recorded", "delta: differences from row to row; state: the robot state that comes next"
    )
    action_shift: int = option(0, "rows to move actions up by, where `vidwm data check` says so")
    discrete_actions: tuple[str, ...] | None = option(
        None, "names of commands such as a gripper's: not cut, subtracted or added"
    )

    @property
    def takes_states(self) -> bool:
        """Whether actions are made of robot states."""
        return self.action_form.startswith("state")


@dataclass(frozen=True, kw_only=True)
class ActionOptions(RowOptions):
    """What the actions of a new model are; they are kept with it."""

    frame_skip: int = option(1, "recorded frames per model step", at_least=1)
    skipped_actions: Literal["concatenate", "sum", "last"] = option(
        "concatenate", "how the rows of a model step become one, with frame_skip"
    )
    action_ranges: Literal["quantile", "minmax"] = option(
        "quantile", "ends of the bins (1, 99 %); few-valued dimensions are never cut"
    )


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Options):
    """How training clips are varied, every time they are seen; one draw for a clip."""

    crop: float = option(1.0, "least side of a random crop, scaled up again", above=0, at_most=1)
    brightness: float = option(0.0, "most that it changes, as a share", at_least=0, at_most=1)
    contrast: float = option(0.0, "most that it changes, as a share", at_least=0, at_most=1)
    saturation: float = option(0.0, "most that it changes, as a share", at_least=0, at_most=1)
    hue: float = option(0.0, "most that it turns, 1 the whole circle", at_least=0, at_most=0.5)

    @property
    def augments(self) -> bool:
        """Whether anything is varied at all."""
        return self.crop < 1 or any((self.brightness, self.contrast, self.saturation, self.hue))


@dataclass(frozen=True, kw_only=True)
class VariantOptions(AugmentOptions):
    """How often tokens are cached, since varied clips cannot be tokenised before they are drawn."""

    variants: int = option(
        1,
        "cached tokens: so many variants of each episode, the first as recorded (1: none but it)",
        at_least=1,
    )
    variant_seed: int = option(0, "cached tokens: seed of their variants", at_least=0)

    @property
    def varies_anew(self) -> bool:
        """Whether clips are varied every time they are seen, so that no cache can hold them."""
        return self.augments and self.variants == 1

    @property
    def cached_variants(self) -> VariantOptions | None:
        """These options alone; None where tokens are cached as recorded."""
        names = [spec.name for spec in fields(VariantOptions)]
        own = VariantOptions(**{name: getattr(self, name) for name in names})
        return own if self.variants > 1 else None

    def conflicts(self) -> list[str]:
        if self.variants > 1 and not self.augments:
            return [
                f"variants = {self.variants} says how often episodes are varied, but not how: give "
                f"crop, brightness, contrast, saturation or hue as well."
            ]
        if self.variants == 1 and self.variant_seed:
            return ["variant_seed is the seed of variants, but there are none: give variants too."]
        return []


@dataclass(frozen=True, kw_only=True)
class PartOptions(RecordingOptions, RowOptions):
    """A dataset of a mixture."""

    weight: float = option(1.0, "how many clips are drawn of it, beside the other weights", above=0)


@dataclass(frozen=True, kw_only=True)
class DataOptions(RecordingOptions):
    """Which of their episodes are used."""

    keeps_states: ClassVar[bool] = False  # so that an episode whose states are bad is

    episodes: Path | None = option(
        None, "JSON list of episode ids, or what `vidwm data check --fix_report` wrote: only these"
    )
    on_bad_episode: Literal["stop", "skip"] = option(
        "stop", "skip: read every episode once at the start; list and leave out the damaged ones"
    )


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(Options):
    """How clips are read while training."""

    num_workers: int | None = option(
        None,
        "processes that read clips ahead (none: up to 4 for a GPU, which would wait; 0 for a CPU, "
        "whose cores train, and for cached tokens)",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True)
class InspectConfig(RecordingOptions):
    """What recordings hold."""

    positional: ClassVar[tuple[str, ...]] = ("data",)

    json: Path | None = option(None, "file to write the same facts to, as JSON")
    contact_sheet: Path | None = option(None, "PNG to draw: random clips above their actions")
    sample: int = option(32, "episodes to look into, at most", at_least=1)
    seed: int = option(0, "seed of the choice of episodes and clips", at_least=0)

    def conflicts(self) -> list[str]:
        sheet = self.contact_sheet
        if sheet is not None and sheet.suffix.lower() != ".png":
            return [f"contact_sheet must end in .png, got {str(sheet)!r}."]
        return []


@dataclass(frozen=True, kw_only=True)
class CheckConfig(RecordingOptions):
    """What is wrong with recordings, and where."""

    positional: ClassVar[tuple[str, ...]] = ("data",)

    fix_report: Path | None = option(
        None, "file for the list of good episodes, which --episodes of other commands takes"
    )
    seed: int = option(0, "seed of the choice of episodes whose alignment is tested", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(DataOptions):
    """Recordings in another format."""

    positional: ClassVar[tuple[str, ...]] = ("data", "output_dir")
    keeps_states: ClassVar[bool] = True

    output_dir: Path = required("folder of the new dataset; must not exist")
    format: Literal["lerobot", "npz"] = option("lerobot", "lerobot: LeRobotDataset v3.0, H.264")
    crf: int = option(11, "quality of the video, 0 the best", at_least=0, at_most=51)


@dataclass(frozen=True, kw_only=True)
class CacheConfig(DataOptions, VariantOptions):
    """Recordings decoded and resized once, or tokenised once."""

    positional: ClassVar[tuple[str, ...]] = ("data",)

    output_dir: Path = required("folder of the cache; one that was begun is gone on with")
    tokenizer: Path | None = option(
        None, "tokenizer folder: cache tokens (none: frames, which --data then takes)"
    )
    height: int = option(0, "frames: height in pixels (0: as the first recorded)", at_least=0)
    width: int = option(0, "frames: width in pixels (0: as the first recorded)", at_least=0)
    resize: bool = option(False, "tokens: resize to the tokenizer's size instead of failing")
    workers: int = option(0, "processes that share the work (0: this one)", at_least=0)
    shard: str = option("1/1", "i/n: only the i-th of n equal parts, for n machines")
    device: str = option("auto", "torch device of the tokenizer; auto takes a GPU if there is one")

    @property
    def share(self) -> tuple[int, int]:
        """The i and n of `shard`."""
        part, _, parts = self.shard.partition("/")
        return int(part), int(parts)

    def conflicts(self) -> list[str]:
        problems = super().conflicts()
        part, _, parts = self.shard.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            problems.append(f"shard must be i/n with i from 1 to n, got {self.shard!r}.")
        if self.tokenizer is not None and (self.height or self.width):
            problems.append("height and width are the tokenizer's: leave them out.")
        if self.variants > 1 and self.tokenizer is None:
            problems.append(
                "variants are cached as tokens: give a tokenizer, or leave them out; frames of a "
                "cache are varied while training."
            )
        if self.variants == 1 and self.augments:
            problems.append(
                f"{', '.join(changed(self, AugmentOptions))}: a cache keeps what was recorded; "
                f"give --variants 4, say, to have tokens of three varied episodes beside each."
            )
        return problems
