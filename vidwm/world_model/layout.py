"""Frames and actions to ONE token sequence: every offset of the project lives here.

    ids       0 .. K-1 visual | K .. K+M-1 action | bos | eos

    sequence  z0 a0 z1 a1 .. z(c-1) a(c-1) bos | z(c) [a(c) z(c+1)] .. [a(T-2) z(T-1)] eos
              '---------- prompt ------------' '------------- future ------------------'
    length    N  A  N  A  ..  N       A     1     N      A     N    ..    A     N       1
    loss      -  -  -  -  ..  -       -     -     N      -     N    ..    -     N       -

T = c + h frames: c context frames and h predicted ones; a(t) leads from frame t to frame t+1, so
a(T-1) is not read. For h = 1 this is the single-step sequence of RLVR-World (arXiv 2505.13934).
Its labels also cover bos and eos; ours do not, because both are forced, never sampled.
Actions are given, so they carry no loss either.
The context is one tensor, (B, c, N) here; what is in it, only its layout knows, for other layouts
(`compressive_layout`) write it otherwise.
RLVR-World's action dimensions share one set of bins as ids (M = bins), so that a transformer has to
count positions to tell them apart. By default every dimension has ids of its own (M = A * bins).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vidwm.errors import UserError

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of a sequence: N, K, A and counts of bins and frames."""

    tokens_per_frame: int
    codebook_size: int
    action_dims: int
    action_bins: int = 256
    context_frames: int
    horizon: int
    shared_action_ids: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool) and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}.")

    @property
    def first_action_id(self) -> int:
        """Id of the first dimension's bin 0."""
        return self.codebook_size

    @property
    def bos(self) -> int:
        """Id between the context and the first predicted frame."""
        return self.first_action_id + self.num_action_ids

    @property
    def num_action_ids(self) -> int:
        """M."""
        return self.action_bins * (1 if self.shared_action_ids else self.action_dims)

    @property
    def eos(self) -> int:
        """Id after the last predicted frame."""
        return self.bos + 1

    @property
    def vocab_size(self) -> int:
        """V: all ids, from visual ones to eos."""
        return self.eos + 1

    @property
    def num_frames(self) -> int:
        """T = context_frames + horizon."""
        return self.context_frames + self.horizon

    @property
    def block(self) -> int:
        """Tokens of one frame with its action: N + A."""
        return self.tokens_per_frame + self.action_dims

    @property
    def context_shape(self) -> tuple[int, ...]:
        """Of the tokens of one context."""
        return self.context_frames, self.tokens_per_frame

    @property
    def prompt_length(self) -> int:
        """P: context frames, their actions, and bos."""
        return self.context_frames * self.block + 1

    @property
    def future_length(self) -> int:
        """Tokens of the predicted frames and the actions between them, without eos."""
        return self.horizon * self.block - self.action_dims

    @property
    def sequence_length(self) -> int:
        """L: prompt, future and eos."""
        return self.prompt_length + self.future_length + 1

    def frame_positions(self, index: int) -> slice:
        """Where the tokens of predicted frame `index` (0 .. horizon-1) stand in the sequence."""
        if not 0 <= index < self.horizon:
            raise ValueError(f"predicted frame must be in 0..{self.horizon - 1}, got {index}")
        start = self.prompt_length + index * self.block
        return slice(start, start + self.tokens_per_frame)

    def logit_positions(self) -> Tensor:
        """Positions whose logits predict the h * N predicted tokens, in order: (h * N,) int64."""
        places = torch.arange(self.horizon)[:, None] * self.block
        return (self.prompt_length - 1 + places + torch.arange(self.tokens_per_frame)).flatten()

    def action_ids(self, bins: Tensor) -> Tensor:
        """Token ids of action bins (..., A)."""
        check_range(bins, self.action_bins, "action bins")
        return bins + self._first_action_ids(bins.device)

    @property
    def copy_distances(self) -> tuple[int, ...]:
        """How far before a predicted token's predecessor the same place of the frame before stands.

        The commonest first: bos makes the way one longer for the first predicted frame.
        """
        return (self.block,) if self.horizon == 1 else (self.block - 1, self.block)

    def last_frame(self, context: Tensor) -> Tensor:
        """Tokens (B, N) of the frame before the first predicted one."""
        return context[:, -1]

    def stillness(self, context: Tensor) -> Tensor:
        """Share of tokens (B,) that its last two frames have in common; 1 where there is one."""
        return (context[:, -1] == context[:, -2:][:, 0]).float().mean(dim=1)

    def advanced(self, context: Tensor, tokens: Tensor) -> Tensor:
        """The context of what follows predicted frames (B, T, N)."""
        return torch.cat([context, tokens], dim=1)[:, -self.context_frames :]

    def of_context(self, context: Tensor) -> Layout:
        """The same for contexts like this one (...), of as many frames as it has."""
        return dataclasses.replace(self, context_frames=len(context))

    def prompt(self, context: Tensor, bins: Tensor) -> Tensor:
        """Context tokens (B, c, N) and bins (B, >= c, A) -> ids (B, P), the last one bos."""
        c = self.context_frames
        self._check(context, c, bins, c)
        blocks = torch.cat([context, self.action_ids(bins[:, :c])], dim=-1).flatten(1)
        return torch.cat([blocks, blocks.new_full((len(blocks), 1), self.bos)], dim=1)

    def future(self, tokens: Tensor, bins: Tensor) -> Tensor:
        """Predicted tokens (B, h, N) and bins (B, >= T-1, A) -> ids (B, future_length)."""
        c, h = self.context_frames, self.horizon
        self._check(tokens, h, bins, self.num_frames - 1)
        actions = self.action_ids(bins[:, c : c + h - 1])
        blocks = torch.cat([tokens[:, :-1], actions], dim=-1).flatten(1)
        return torch.cat([blocks, tokens[:, -1]], dim=1)

    def sequence(self, context: Tensor, tokens: Tensor, bins: Tensor) -> Tensor:
        """Context, predicted tokens (B, h, N) and bins (B, >= T-1, A) -> ids (B, L) int64."""
        prompt, future = self.prompt(context, bins), self.future(tokens, bins)
        return torch.cat([prompt, future, future.new_full((len(future), 1), self.eos)], dim=1)

    def labels(self, input_ids: Tensor) -> Tensor:
        """Ids (B, L) with -100 wherever there is no loss; not shifted."""
        labels = torch.full_like(input_ids, IGNORED)
        places = self.logit_positions().to(input_ids.device) + 1
        labels[:, places] = input_ids[:, places]
        return labels

    def _first_action_ids(self, device: torch.device) -> Tensor:
        """Id of bin 0 of each dimension, (A,)."""
        stride = 0 if self.shared_action_ids else self.action_bins
        return self.first_action_id + stride * torch.arange(self.action_dims, device=device)

    def _check(self, tokens: Tensor, frames: int, bins: Tensor, actions: int) -> None:
        expected = (frames, self.tokens_per_frame)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != expected:
            raise ValueError(
                f"tokens must be (B, {expected[0]}, {expected[1]}), got {tuple(tokens.shape)}"
            )
        rows = (len(tokens), self.action_dims)
        if bins.ndim != 3 or (len(bins), bins.shape[2]) != rows or bins.shape[1] < actions:
            raise ValueError(
                f"action bins must be ({rows[0]}, >= {actions}, {rows[1]}), got {tuple(bins.shape)}"
            )
        check_range(tokens, self.codebook_size, "tokens")


def check_range(values: Tensor, limit: int, what: str) -> None:
    if values.numel() and (values.min() < 0 or values.max() >= limit):
        raise UserError(
            f"The {what} must lie in 0..{limit - 1}, got {int(values.min())}..{int(values.max())}; "
            f"the data was made for another model."
        )
