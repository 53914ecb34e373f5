"""Gold metrics: what the reward does not name, watched on held-out contexts while it is optimised.

A policy that gets better at its reward and worse at what the reward stands for has found a way to
game it (Gao et al., arXiv 2210.10760, who call the latter the gold reward). The start is what the
policy before post-training scores on the same contexts with the same random numbers, so scores are
compared context by context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vidwm.evaluation.metrics import frame_metrics, higher_is_better
from vidwm.reward.mix import network_of
from vidwm.reward.scorer import Scorer
from vidwm.world_model.world_model import WorldModel

STANDARD_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class GoldLook:
    """scores: means by name, as they are logged; warning: one sentence, or nothing."""

    scores: dict[str, float]
    warning: str


class GoldWatch:
    """Scores one future of each of W held-out contexts by all metrics that `rewarded` lacks."""

    def __init__(self, model: WorldModel, rewarded: Sequence[str], memory_gb: float) -> None:
        named = {network_of(name) for name in rewarded}
        names = [name for name in frame_metrics("auto", model.size) if name not in named]
        self.model, self.scorer = model, Scorer(names, memory_gb=memory_gb)
        self.first: dict[str, Tensor] = {}

    @property
    def started(self) -> bool:
        return bool(self.first)

    def start(self, tokens: Tensor, context: Tensor, truth: Tensor, rewards: Tensor) -> None:
        """Remember what the starting policy scores: as `look`."""
        self.first = {**self._scores(tokens, context, truth), "reward": rewards}

    def look(self, tokens: Tensor, context: Tensor, truth: Tensor, rewards: Tensor) -> GoldLook:
        """tokens (W, 1, T, N) after contexts (W, ...), truth (W, T, 3, H, W), rewards (W,)."""
        now = self._scores(tokens, context, truth)
        scores = {f"gold_{name}": float(value.mean()) for name, value in now.items()}
        fallen = [
            name for name, value in now.items() if worse(self.first[name], value, gold_sign(name))
        ]
        risen = float((rewards - self.first["reward"]).mean()) > 0
        if not (fallen and risen):
            return GoldLook(scores=scores, warning="")
        changes = ", ".join(
            f"{name} {float(self.first[name].mean()):.4g} -> {scores[f'gold_{name}']:.4g}"
            for name in fallen
        )
        return GoldLook(
            scores=scores,
            warning=f"on held-out contexts the reward rises while metrics outside of it get worse: "
            f"{changes}; it may be gamed, look at the videos or put them into --reward.",
        )

    def _scores(self, tokens: Tensor, context: Tensor, truth: Tensor) -> dict[str, Tensor]:
        rows, decode = self.model.rows(tokens, context)
        found = self.scorer.score(rows, truth, decode=decode)
        return {name: value.mean(dim=(1, 2)) for name, value in found.items()}


def gold_sign(metric: str) -> float:
    """1 for metrics that are better when higher, else -1."""
    return 1.0 if higher_is_better(metric) else -1.0


def worse(before: Tensor, after: Tensor, sign: float) -> bool:
    """Whether scores (W,) of the same contexts fell by more than 2 standard errors of the mean."""
    change = sign * (after - before)
    error = change.std() / len(change) ** 0.5
    return bool(change.mean() < -STANDARD_ERRORS * error)
