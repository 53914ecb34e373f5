"""What is known of released models: action ranges of their robot, sizes and settings."""

from __future__ import annotations

import torch

from vidwm.world_model.actions import ActionBins
from vidwm.world_model.llama_files import TransformerConfig
from vidwm.world_model.world_model import Setting

# RT-1's 13 dimensions in the order of its data set's keys, minimum and maximum over all of it, as
# RLVR-World's models have them. The outlier of the second-but-last dimension is theirs as well.
RT1 = {
    "base_displacement_vector_0": (-0.39601, 0.39600),
    "base_displacement_vector_1": (-0.00963, 0.00368),
    "base_displacement_vertical_rotation": (-0.40005, 0.39991),
    "gripper_closedness_action": (-1.0, 1.0),
    "rotation_delta_0": (-1.56992, 1.57064),
    "rotation_delta_1": (-1.56989, 1.53211),
    "rotation_delta_2": (-1.57042, 1.56915),
    "terminate_episode_0": (0.0, 1.0),
    "terminate_episode_1": (0.0, 1.0),
    "terminate_episode_2": (0.0, 1.0),
    "world_vector_0": (-2.02045, 2.99846),
    "world_vector_1": (-5.49790, 22.09053),
    "world_vector_2": (-2.03166, 2.75075),
}
RT1_FPS = 3.0
RT1_MULTI_STEP_IDS = 9008  # twice 4375 visual ids, 256 of actions, bos and eos


def rt1_bins() -> ActionBins:
    """256 bins of RT-1's actions."""
    low, high = zip(*RT1.values(), strict=True)
    return ActionBins(low=torch.tensor(low), high=torch.tensor(high))


def rt1_setting(*, multi_step: bool) -> Setting:
    """Of RLVR-World's models of RT-1."""
    return Setting(
        context_frames=1 if multi_step else 4,
        horizon=7 if multi_step else 1,
        frame_skip=1,
        fps=RT1_FPS,
        action_names=tuple(RT1),
        heldout=0.01,
        split_seed=0,
        shared_action_ids=True,
    )


def rt1_transformer(vocab_size: int) -> TransformerConfig:
    """Sizes of RLVR-World's transformers of RT-1, which differ in their ids alone."""
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=8192,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
