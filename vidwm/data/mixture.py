"""A mixture as one dataset: its parts opened and joined, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vidwm.data.action_semantics import ActionSemantics, numbered
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined, Part, recordings_of
from vidwm.data.kept_parts import KeptPart, dataset_name
from vidwm.data.meant import base_of, with_meaning
from vidwm.data.mixture_file import read_mixture
from vidwm.data_config import PartOptions, RecordingOptions

SAME_RATE = 0.01  # by which frame rates may differ, relatively


def open_mixture(
    options: RecordingOptions, open_part: Callable[[str, PartOptions], EpisodeDataset]
) -> Joined:
    """The mixture `options.data`, each part opened from its name and its settings.

    Ids of episodes are "<part>/<id>". UserError where parts do not fit together.
    """
    parts = read_mixture(options)
    return Joined(
        Path(options.data),
        [_joined_part(name, part, open_part(name, part)) for name, part in parts.items()],
    )


def _joined_part(name: str, part: PartOptions, recorded: EpisodeDataset) -> Part:
    """The part with actions as it alone has them; what a model makes of them comes on top."""
    named = numbered(base_of(recorded, part.action_form).action_names, part.discrete_actions or ())
    semantics = ActionSemantics(form=part.action_form, shift=part.action_shift, discrete=named)
    dataset = by_itself(recorded, semantics)
    return Part(
        name=name,
        dataset=dataset,
        episode_ids=[f"{name}/{episode}" for episode in dataset.episode_ids],
        recordings=[f"{name}/{recording}" for recording in recordings_of(dataset)],
        weight=part.weight,
        kept=KeptPart(
            name=dataset_name(Path(name)),
            dataset=dataset_name(part.data),
            weight=part.weight,
            camera=dataset.camera,
            semantics=semantics,
        ),
    )


def by_itself(dataset: EpisodeDataset, semantics: ActionSemantics) -> EpisodeDataset:
    """The dataset with actions as it alone has them, row by row."""
    return dataset if semantics == ActionSemantics() else with_meaning(dataset, semantics)


def mixture_lines(mixture: Joined) -> list[str]:
    """The parts for people: shares of the clips, sizes, frame rates; and what to think about."""
    total = sum(part.weight or 0 for part in mixture.parts)
    lines = [f"mixture     {mixture.path} of {len(mixture.parts)} parts"]
    for part in mixture.parts:
        data = part.dataset
        lines.append(
            f"  {part.name}: {(part.weight or 0) / total:.1%} of the clips; {len(data):,} episodes "
            f"of {data.format}, {sum(data.lengths):,} frames at {data.fps:g} per second, camera "
            f"{data.camera}"
        )
    rates = [part.dataset.fps for part in mixture.parts]
    if max(rates) > min(rates) * (1 + SAME_RATE):
        lines.append(
            f"  note: {min(rates):g} to {max(rates):g} frames per second, so a model step lasts "
            f"longer in some parts than in others"
        )
    return lines
