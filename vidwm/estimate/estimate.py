"""`vidwm estimate <stage>`: parameters, tokens, FLOPs, memory and floor time of a training run.

Floors are what a GPU's data sheet allows: no run is faster, a good one takes two to three times as
long. vidwm trains on one GPU; for more of them the batch is divided, communication left out.
"""

from __future__ import annotations

from vidwm.config import PretrainConfig, TokenizerConfig, TrainOptions
from vidwm.errors import UserError
from vidwm.estimate.gpus import GPUS
from vidwm.estimate.networks import model_at, model_to_pretrain, tokenizer_to_train
from vidwm.estimate.phases import (
    Step,
    StepOf,
    finetune_step,
    pretrain_step,
    size,
    tokenizer_step,
)
from vidwm.evaluation.tables import aligned
from vidwm.finetune_config import FinetuneConfig
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.world_model.world_model import WorldModel

GPU_COUNTS = (1, 2, 4, 8)


def estimate(config: TrainOptions) -> str:
    """The report on the run that `config`, of any training stage, describes."""
    head, step_of = described(config)
    whole = step_of(config.batch_size)
    return "\n\n".join(
        [
            aligned([["network", "size"], *head]),
            aligned(phase_rows(whole)),
            aligned(memory_rows(whole)),
            aligned(run_rows(config, step_of)),
            "Floors by data sheet; memory without workspaces and fragmentation.",
        ]
    )


def described(config: TrainOptions) -> tuple[list[list[str]], StepOf]:
    """The networks of a run, and what a step of it takes."""
    if isinstance(config, TokenizerConfig):
        tokenizer = tokenizer_to_train(config)
        return tokenizer_lines(tokenizer), tokenizer_step(config, tokenizer)
    if isinstance(config, FinetuneConfig):
        if config.model is None:
            raise UserError(
                "An adaptation is three runs: make its start with --steps 0 --pretrain_steps 0, "
                "and estimate `vidwm finetune --model` and `vidwm pretrain --init_from` with that."
            )
        model = model_at(config.model)
        step_of = finetune_step(config, model)
    else:
        assert isinstance(config, PretrainConfig)
        model = model_to_pretrain(config)
        step_of = pretrain_step(config, model)
    return [*tokenizer_lines(model.tokenizer), *transformer_lines(model)], step_of


def tokenizer_lines(tokenizer: Tokenizer) -> list[list[str]]:
    """Parameters and tokens of a tokenizer."""
    lines = [
        ["tokenizer", f"{size(tokenizer) / 1e6:.2f} M parameters"],
        ["frames", f"{tokenizer.height} x {tokenizer.width}"],
        ["codes", f"{tokenizer.codebook_size}"],
        ["tokens a frame", f"{tokenizer.tokens_per_frame}"],
    ]
    if isinstance(tokenizer, CompressiveTokenizer):
        lines.append(["tokens a context frame", f"{tokenizer.tokens_per_context_frame}"])
    return lines


def transformer_lines(model: WorldModel) -> list[list[str]]:
    """Parameters and sequence of a world model."""
    layout = model.layout
    return [
        ["transformer", f"{size(model.transformer) / 1e6:.2f} M parameters"],
        ["ids", f"{layout.vocab_size}"],
        ["sequence", f"{layout.sequence_length} tokens, {layout.prompt_length} of them given"],
        ["predicted frames", f"{layout.horizon}"],
    ]


def phase_rows(step: Step) -> list[list[str]]:
    """Work and floors of a whole step on one GPU, by phase."""
    rows = [["one step", "TFLOP", "GB moved", *(f"{gpu.name} floor" for gpu in GPUS)]]
    for name, phase in step.phases.items():
        work, floors = phase.work, (f"{phase.floor(gpu):.3f} s" for gpu in GPUS)
        rows.append([name, f"{work.flops / 1e12:.2f}", f"{work.bytes / 1e9:.2f}", *floors])
    return rows


def memory_rows(step: Step) -> list[list[str]]:
    """Memory of one GPU that takes the whole batch."""
    rows = [["memory, one GPU", "GB"]]
    rows += [[name, f"{value / 1e9:.2f}"] for name, value in step.memory.items() if value]
    return rows + [[f"({name})", f"{value / 1e9:.2f}"] for name, value in step.passing.items()]


def run_rows(config: TrainOptions, step_of: StepOf) -> list[list[str]]:
    """Memory, floor of a step and of the run, by the number of GPUs."""
    floors = [f"{gpu.name}, {what}" for gpu in GPUS for what in ("step", "run")]
    rows = [["GPUs", "clips each", "peak GB each", *floors]]
    for count in GPU_COUNTS:
        clips = -(-config.batch_size // count)
        step = step_of(clips)
        peak = sum(step.memory.values()) + max(step.passing.values())
        cells = []
        for gpu in GPUS:
            seconds = sum(phase.floor(gpu) for phase in step.phases.values())
            cells += [f"{seconds:.2f} s", f"{seconds * config.steps / 3600:.1f} h"]
        rows.append([str(count), str(clips), f"{peak / 1e9:.1f}", *cells])
    return rows
