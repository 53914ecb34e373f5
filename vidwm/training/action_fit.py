"""What recorded actions are to a new model: their meaning, their ranges, and what those cut off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vidwm.data.action_semantics import ActionSemantics, few_valued, numbered
from vidwm.data.clip import EpisodeDataset
from vidwm.data.meant import base_of, meant_rows, with_meaning
from vidwm.data_config import ActionOptions
from vidwm.world_model.actions import ActionBins
from vidwm.world_model.range_report import DimensionRange, range_report


@dataclass(frozen=True, kw_only=True)
class ActionFit:
    """names: one per number of a model step; bins: cut between the ranges; report: per name."""

    semantics: ActionSemantics
    names: tuple[str, ...]
    bins: ActionBins
    report: list[DimensionRange]


def fit_actions(
    options: ActionOptions,
    dataset: EpisodeDataset,
    recorded: Mapping[int, np.ndarray],
    num_bins: int,
) -> ActionFit:
    """Ranges of what the options make of recorded actions.

    recorded: actions (T, A) as they are in the files, by number of the training episodes.
    """
    semantics = semantics_of(options, dataset, recorded)
    meant = with_meaning(dataset, semantics, options.frame_skip)
    rows = np.concatenate([meant_rows(meant, i, actions) for i, actions in recorded.items()])
    repeats = options.frame_skip if semantics.skipped == "concatenate" else 1
    discrete = semantics.discrete_after(rows.shape[1] // repeats, options.frame_skip)
    bins = ActionBins.fit(rows, method=options.action_ranges, bins=num_bins, uncut=discrete)
    names = tuple(meant.action_names)
    report = range_report(bins, rows, names, discrete)
    return ActionFit(semantics=semantics, names=names, bins=bins, report=report)


def semantics_of(
    options: ActionOptions, dataset: EpisodeDataset, recorded: Mapping[int, np.ndarray]
) -> ActionSemantics:
    """As the options say, with the discrete dimensions that are found in the rows."""
    base = base_of(dataset, options.action_form)
    rows = np.concatenate([meant_rows(base, i, actions) for i, actions in recorded.items()])
    named = numbered(base.action_names, options.discrete_actions or ())
    return ActionSemantics(
        form=options.action_form,
        shift=options.action_shift,
        skipped=options.skipped_actions,
        discrete=tuple(sorted({*named, *few_valued(rows)})),
    )
