"""Previous-frame drafts: several tokens per step, and exactly the tokens of plain decoding.

Neighbouring frames share most of their tokens. So a step feeds the newest token and, after it,
guesses of the next ones: the tokens at the same places one frame earlier. The states that come back
are right as far as the guesses were, and because the randomness of a token depends on its position
alone, the token drawn from them IS the one that plain decoding would draw. The longest run of
guesses that agree is kept, and the token drawn after it; what lies in the cache beyond is
overwritten. This is speculative decoding (Leviathan et al., arXiv 2211.17192) where the random
numbers make sampling deterministic, so that agreement takes the place of its acceptance test.
Actions are given: they ride along as guesses that cannot be wrong. Matrix products of other shapes
round differently, so tokens are identical up to flips of near-ties.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidwm.rollout.block_size import BLOCK_SIZES, BlockSize, StepCost
from vidwm.rollout.decoder import Decoder
from vidwm.rollout.kv_cache import GroupCache
from vidwm.rollout.window import Window

SLACK = BLOCK_SIZES[-1]  # what a block may reach beyond the window's end


def worth_drafting(window: Window, cost: StepCost) -> bool:
    """Whether there would be a guess in the first block, if futures are as still as the context.

    Otherwise plain decoding is the faster: it spares all that is kept for each rollout.
    """
    B, G = window.states.shape[:2]
    expected = BlockSize(window.stillness.repeat_interleave(G), cost)
    rows = torch.arange(B * G, device=window.states.device).view(B, G)
    everyone, nothing = torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows)
    return expected.choose(rows, everyone, window.length, nothing, in_step=1) > 1


class DraftedDecoding:
    """One window's rollouts, each as far as its guesses let it.

    rows (B', G'): the rollouts still in the batch, as numbers in 0 .. B * G - 1; fed (B', G'):
    tokens of each that the cache holds and that are right; in_step: whether these are as many for
    all, as they are until the first guess that may be wrong. By rollout and future position: ids,
    logprobs and randomness, with SLACK at the end. ids start one block early, with the last context
    frame: position j stands at block + j, its guess at j.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: GroupCache,
        window: Window,
        cost: StepCost,
    ) -> None:
        B, G = window.states.shape[:2]
        device = window.states.device
        self.decoder, self.cache, self.window = decoder, cache, window
        self.block, self.last = window.layout.block, window.length - 1
        self.ids = F.pad(window.timeline().flatten(0, 1), (0, SLACK))
        self.randomness = F.pad(window.padded_states().flatten(0, 1), (0, SLACK))
        self.logprobs = torch.zeros(self.randomness.shape, device=device)
        self.sampled = F.pad(window.is_sampled(), (0, SLACK))
        self.rows = torch.arange(B * G, device=device).view(B, G)
        self.fed = torch.zeros_like(self.rows)
        self.block_size = BlockSize(window.stillness.repeat_interleave(G), cost)
        self.in_step = True
        self.passes = 0

    def run(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and logprobs, both (B, G, frames, N); states (B, 1, 1, D), the context's last."""
        window, (B, G) = self.window, self.rows.shape
        states = states[:, :, -1].expand(-1, G, -1)
        drawn = self.decoder.draw(states, window.states[:, :, 0, 0], window.legal_at(0))
        self.ids[:, self.block] = drawn.tokens.flatten()
        self.logprobs[:, 0] = drawn.logprobs.flatten()
        while left := int((self.last - self.fed).amax()):
            self._step(left)
        ids = self.ids[:, self.block :].view(B, G, -1)[..., : window.length]
        logprobs = self.logprobs.view(B, G, -1)[..., : window.length]
        return window.frames_of(ids), window.frames_of(logprobs)

    def _step(self, left: int) -> None:
        """Feed a block of every rollout, and keep what is right of it."""
        fed, at = self.fed, self.rows[..., None]
        active = fed < self.last
        certain = self._given_next(fed)
        in_step = 1 + int(certain[0, 0]) if self.in_step else 0
        size = self.block_size.choose(self.rows, active, left, certain, in_step)
        offsets = torch.arange(size, device=fed.device)
        places = fed[..., None] + offsets
        here, targets = self.block + places, places + 1
        guesses = torch.where(self.sampled[places], self.ids[at, places], self.ids[at, here])
        guesses[..., 0] = self.ids[at[..., 0], here[..., 0]]

        self.in_step = size <= in_step
        # One number, while it is one, spares the kernels their work on ragged rows.
        self.cache.length = self.last - left if self.in_step else fed
        drawn = self.decoder.step(
            guesses, self.cache, self.randomness[at, targets], self.window.legal_at(targets)
        )
        given = self.ids[at, here + 1]
        sampled = self.sampled[targets]
        decided = torch.where(sampled, drawn.tokens, given)
        agreed = (guesses[..., 1:] == decided[..., :-1]).cumprod(dim=2).sum(dim=2)
        count = torch.minimum(1 + agreed, self.last - fed)
        kept = offsets < count[..., None]
        self.ids[at, here + 1] = torch.where(kept, decided, given)
        self.logprobs[at, targets] = torch.where(kept & sampled, drawn.logprobs, 0.0)

        tried = kept & sampled
        right = tried & (self.ids[at, targets] == decided)
        self.block_size.learn(self.rows, right.sum(dim=2), tried.sum(dim=2))
        self.passes += int(active.sum())
        self.fed = fed + count
        self._drop_finished()

    def _given_next(self, fed: Tensor) -> Tensor:
        """How many of the tokens right after those at `fed` are actions, which are given."""
        place = (fed + 1) % self.block
        return torch.where(place < self.window.layout.tokens_per_frame, 0, self.block - place)

    def _drop_finished(self) -> None:
        """Shrink the batch once at most half of its rollouts, as a rectangle, are needed."""
        active = self.fed < self.last
        contexts = active.any(dim=1).nonzero()[:, 0]
        width = int(active.sum(dim=1).amax())
        if not width or 2 * len(contexts) * width > active.numel():
            return
        # Those that need to go on first; a context with fewer of them keeps finished ones.
        chosen = active[contexts].int().argsort(dim=1, descending=True, stable=True)[:, :width]
        self.rows = self.rows[contexts[:, None], chosen]
        self.fed = self.fed[contexts[:, None], chosen]
        self.cache.select(contexts, chosen)
