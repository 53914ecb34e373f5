"""Contexts that the model predicted itself, so that it learns to go on from its own mistakes.

A long rollout starts every new window from predicted frames, but maximum likelihood only ever shows
true ones. Here some clips of a batch begin later: the model imagines the frames in between, and is
asked for what truly followed. Nothing flows back through the imagined frames. The idea is that of
scheduled sampling (Bengio et al., arXiv 1506.03099), by whole frames, lest a token of a frame be
judged by what another draw of its beginning was; it is not part of RLVR-World.
"""

from __future__ import annotations

import torch

from vidwm.rollout.engine import generate
from vidwm.rollout.sampling import Sampling
from vidwm.training.token_windows import Clips
from vidwm.world_model.world_model import WorldModel


def drawn_jump(horizon: int, draw: int) -> int:
    """How many frames are imagined in the step named `draw`: 1 .. horizon - 1, all alike."""
    return int(torch.randint(1, horizon, (), generator=torch.Generator().manual_seed(draw)))


def continued(model: WorldModel, clips: Clips, jump: int, draw: int) -> Clips:
    """The clips from `jump` frames later on, those frames as the model predicts them."""
    imagined = generate(
        model.transformer,
        model.layout,
        clips.context,
        model.bins(clips.actions),
        group_size=1,
        keys=torch.arange(len(clips.context)),
        sampling=Sampling(seed=draw),
        horizon=jump,
    ).tokens[:, 0]
    context = model.layout.advanced(clips.context, imagined.to(clips.context.device))
    return Clips(context, clips.tokens[:, jump:], clips.actions[:, jump:])
