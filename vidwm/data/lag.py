"""Whether actions lead frames: at which lag does an action tell something about the next motion?

`actions[t]` should lead from frame t to frame t + 1. Shifted by a row, a set trains without a
complaint and is useless, so the pictures are asked: the motion between frames t and t + 1 (a coarse
optical flow) is held against the actions of rows t - 2 to t + 2. Plain correlation would be wrong
three times: robots coast, so that old actions explain today's motion; policies react, so that
coming ones do; and smooth actions tell of their neighbours' effects. What counts is news, by
partial regression: flow and action are first predicted from the two motions before and from
appearance (of frame t, or of the frame that a later action was chosen at), the action from its
neighbours as well, two before it and one after. The score of a lag is the share of the action's
remainder that the flow's remainder explains, by ridge regression cross-validated over episodes,
mean over dimensions; its spread, and how often another lag would come first, is that over episodes.

The verdict is by the newest lag that tells something for certain, since that is where an action
begins to show; where it shows most depends on how late the robot follows. Above 0, motion would
come before its cause. Below 0, the robot is a frame late or the actions are stored a row early:
pictures cannot tell which. Dimensions that change slowly (absolute positions, grippers) count by
their changes, and large values by little more than middling ones: controllers cut them off. The
thresholds were set on four sets, simulated and real, with actions as recorded and shifted; fewer
than ten episodes often leave it undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vidwm.data.clip import Episode
from vidwm.data.motion import appearance, flow, small

LAGS = (-2, -1, 0, 1, 2)
MARGIN = 2  # rows needed before and after
EARLIER, LATER = 2, 1  # actions before and after the one in question that are accounted for
FOLDS = 5
PENALTIES = (3.0, 30.0, 300.0, 3e3)
FAVOUR = 3.0  # by which favoured inputs are scaled, so penalised nine times less
APPEARANCE_DIMS = 32
LARGE = 1.5  # median deviations, about where the effect of an action is taken to level off
SLOW = 0.35  # deviation of changes over deviation of values, below which changes count
SHARE = 0.4  # of the best score: less may be what the flow's roughness leaves behind
CERTAIN = 3.0  # standard errors, for many episodes
MIN_ROWS = 20  # frames to compare, below which chance decides
RESAMPLES = 1000  # draws of as many episodes with replacement


@dataclass(frozen=True)
class LagEvidence:
    """What the test sees of one episode: flow and appearance per frame, and the actions."""

    flow: np.ndarray
    appearance: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LagResult:
    """For each lag in `LAGS` its score, that over its standard error, and its wins: in which share
    of `RESAMPLES` it explains most. What is resampled are `parts`: `whole` episodes, or blocks in
    time of the few there are.
    """

    scores: tuple[float, ...]
    certainty: tuple[float, ...]
    wins: tuple[float, ...]
    parts: int
    whole: bool

    @property
    def best(self) -> int:
        """The lag that explains most."""
        return LAGS[int(np.argmax(self.scores))]

    @property
    def onset(self) -> int | None:
        """The newest lag that tells something for certain; None where none does."""
        needed = CERTAIN * (1 + 4 / self.parts) ** 0.5  # few parts: their spread is uncertain too
        certain = [
            lag
            for lag, score, errors in zip(LAGS, self.scores, self.certainty, strict=True)
            if score >= SHARE * max(self.scores) and errors >= needed
        ]
        return max(certain, default=None)


def lag_evidence(episode: Episode) -> LagEvidence | None:
    """None where the episode is too short for the test."""
    if len(episode) < 2 * MARGIN + 2:
        return None
    images = small(episode.frames)
    return LagEvidence(flow(images), appearance(images), episode.actions)


def lag_test(seen: Sequence[LagEvidence]) -> LagResult | None:
    """None where there is too little to say anything: no motion, no change of action."""
    if not seen:
        return None
    motions, befores, looks, rows, parts = [], [], [], [], []
    for number, (evidence, actions) in enumerate(zip(seen, _informative(seen), strict=True)):
        t = np.arange(MARGIN, len(evidence.flow) - MARGIN)
        motions.append(evidence.flow[t])
        befores.append(np.concatenate([evidence.flow[t - 1], evidence.flow[t - 2]], axis=1))
        looks.append(np.stack([evidence.appearance[t + max(lag, 0)] for lag in LAGS]))
        lags = range(LAGS[0] - EARLIER, LAGS[-1] + LATER + 1)
        rows.append(np.stack([actions[np.clip(t + lag, 0, len(actions) - 1)] for lag in lags]))
        # With few episodes, parts of them in time stand for episodes.
        block = np.arange(len(t)) * FOLDS // len(t) * (len(seen) < FOLDS)
        parts.append(number * FOLDS + block)
    motion, part, actions = np.concatenate(motions), np.concatenate(parts), np.concatenate(rows, 1)
    count = len(np.unique(part))
    if count < FOLDS or len(motion) < MIN_ROWS or not actions.shape[2] or not motion.std() > 0:
        return None
    before = np.concatenate(befores)
    pasts = {
        lag: np.concatenate([before, _principal(look)], axis=1)
        for lag, look in zip(LAGS, np.concatenate(looks, axis=1), strict=True)
        if lag >= 0
    }
    news = motion - _predicted(pasts[0], motion, part)
    gains = []
    for place, lag in enumerate(LAGS, EARLIER):
        near = [*actions[place - EARLIER : place], *actions[place + 1 : place + 1 + LATER]]
        neighbours = np.concatenate(near, axis=1)
        known = np.concatenate([pasts[max(lag, 0)], neighbours], axis=1)
        left = actions[place] - _predicted(known, actions[place], part, neighbours.shape[1])
        left -= left.mean(axis=0)
        errors = (left - _predicted(news, left, part)) ** 2
        total = (left**2).sum(axis=0) + 1e-12
        gain = ((left**2 - errors) / total).mean(axis=1)
        gains.append([gain[part == p].sum() for p in np.unique(part)])
    return _result(np.array(gains), whole=len(seen) >= FOLDS)


def _result(gains: np.ndarray, whole: bool) -> LagResult:
    """From (L, P) what each part adds to the score of each lag."""
    count = gains.shape[1]
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    first = gains[:, drawn].sum(axis=2).argmax(axis=0)
    return LagResult(
        scores=tuple(max(float(score), 0.0) for score in gains.sum(axis=1)),
        certainty=tuple(_in_errors(values) for values in gains),
        wins=tuple(float((first == place).mean()) for place in range(len(LAGS))),
        parts=count,
        whole=whole,
    )


def _informative(seen: Sequence[LagEvidence]) -> list[np.ndarray]:
    """Actions of each episode: large ones damped, slow ones as changes, constant ones left out."""
    rows = np.concatenate([evidence.actions for evidence in seen]).astype(np.float64)
    alive = rows.std(axis=0) > 1e-6 * np.abs(rows).max(axis=0)
    rows = rows[:, alive]
    middle, deviation = np.median(rows, axis=0), rows.std(axis=0)
    large = LARGE * np.maximum(np.median(np.abs(rows - middle), axis=0), deviation / 6)
    values = [np.tanh((evidence.actions[:, alive] - middle) / large) for evidence in seen]
    steps = [np.diff(episode, axis=0, prepend=episode[:1]) for episode in values]
    spread, moved = np.concatenate(values).std(axis=0), np.concatenate(steps).std(axis=0)
    slow, changing = moved < SLOW * spread, moved > 1e-6
    return [np.where(slow, s, v)[:, changing] for s, v in zip(steps, values, strict=True)]


def _principal(values: np.ndarray) -> np.ndarray:
    """The first principal components of (M, D)."""
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    components: np.ndarray = u[:, :APPEARANCE_DIMS] * s[:APPEARANCE_DIMS]
    return components


def _predicted(
    inputs: np.ndarray, targets: np.ndarray, parts: np.ndarray, favoured: int = 0
) -> np.ndarray:
    """Ridge predictions (M, A) of targets from inputs (M, D), each from the folds without it.

    Of `PENALTIES`, each target takes the one that predicts it best. The last `favoured` inputs are
    hardly penalised: among hundreds of features of frames, a few actions would be shrunk away.
    """
    scaled = ((inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-8)).astype(np.float64)
    scaled[:, inputs.shape[1] - favoured :] *= FAVOUR
    targets = targets.astype(np.float64)
    names = np.random.default_rng(0).permutation(np.unique(parts))
    guesses = np.empty((len(PENALTIES), *targets.shape))
    for fold in range(FOLDS):
        held = np.isin(parts, names[fold::FOLDS])
        centre, mean = scaled[~held].mean(axis=0), targets[~held].mean(axis=0)
        x, y = scaled[~held] - centre, targets[~held] - mean
        guesses[:, held] = mean + _ridge(x, y, scaled[held] - centre)
    chosen = ((guesses - targets) ** 2).sum(axis=1).argmin(axis=0)
    best: np.ndarray = np.take_along_axis(guesses, chosen[None, None, :], axis=0)[0]
    return best


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions (P, K, A) for new rows (K, D) from x (M, D) and y (M, A), one set per penalty.

    In one thread: on a busy machine, many small products in several take ten times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = torch.from_numpy(x)
        square, cross = rows.T @ rows, rows.T @ torch.from_numpy(y)
        eye = torch.eye(len(square), dtype=square.dtype)
        weights = [torch.linalg.solve(square + penalty * eye, cross) for penalty in PENALTIES]
        guesses: np.ndarray = (torch.from_numpy(new) @ torch.stack(weights)).numpy()
        return guesses
    finally:
        torch.set_num_threads(threads)


def _in_errors(values: np.ndarray) -> float:
    """The mean in standard errors of it; 0 where all values are the same."""
    error = values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() / error) if error > 0 else 0.0
