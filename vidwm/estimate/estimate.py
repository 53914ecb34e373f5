"""`vidwm estimate <stage>`: parameters, tokens, FLOPs, memory and floor time of a training run.

Floors are what a GPU's data sheet allows: no run is faster, a good one takes two to three times as
long. vidwm trains on one GPU; for more of them the batch is divided, communication left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidwm.config import PretrainConfig, TokenizerConfig, TrainOptions
from vidwm.errors import UserError
from vidwm.estimate.gpus import GPUS
from vidwm.estimate.networks import (
    model_at,
    model_to_adapt,
    model_to_pretrain,
    reads_data,
    tokenizer_to_train,
)
from vidwm.estimate.phases import (
    Step,
    StepOf,
    finetune_step,
    pretrain_step,
    size,
    tokenizer_step,
    with_adapters,
)
from vidwm.evaluation.tables import aligned
from vidwm.finetune_config import FinetuneConfig
from vidwm.lora_config import LoraOptions
from vidwm.tokenizer.compressive import CompressiveTokenizer
from vidwm.tokenizer.open_tokenizer import Tokenizer
from vidwm.training.adapt_stages import finetune_stage, pretrain_stage, tokenizer_stage
from vidwm.world_model.world_model import WorldModel

GPU_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Run:
    """A training run: its config, its networks in lines, and what a step of it takes."""

    name: str
    config: TrainOptions
    networks: list[list[str]]
    step_of: StepOf


def estimate(config: TrainOptions) -> str:
    """The report on the run that `config`, of any training stage, describes.

    An adaptation is up to three runs, reported one after the other, then as a whole.
    """
    runs = runs_of(config)
    if not isinstance(config, FinetuneConfig) or config.from_ is None:
        return report(runs[0])
    parts = [f"{run.name}: {run.config.steps} steps\n\n{report(run)}" for run in runs]
    if not reads_data(config):
        parts.insert(0, "data not found: frames and actions of the released model")
    if len(runs) > 1:
        parts += ["all of them", aligned(whole_rows(runs))]
    return "\n\n".join(parts)


def report(run: Run) -> str:
    """On one run."""
    whole = run.step_of(run.config.batch_size)
    return "\n\n".join(
        [
            aligned([["network", "size"], *run.networks]),
            aligned(phase_rows(whole)),
            aligned(memory_rows(whole)),
            aligned(run_rows(run)),
            "Floors by data sheet; memory without workspaces and fragmentation.",
        ]
    )


def runs_of(config: TrainOptions) -> list[Run]:
    """The runs that a command makes: one, or those of an adaptation that are asked for."""
    if isinstance(config, TokenizerConfig):
        return [tokenizer_run(config, tokenizer_to_train(config))]
    if isinstance(config, PretrainConfig):
        return [pretrain_run(config, model_to_pretrain(config))]
    assert isinstance(config, FinetuneConfig)
    if config.model is not None:
        return [finetune_run(config, model_at(config.model))]
    return runs_to_adapt(config, model_to_adapt(config))


def runs_to_adapt(config: FinetuneConfig, model: WorldModel) -> list[Run]:
    """Of `vidwm finetune --from`, whose start is `model`. UserError when there are none."""
    start = config.output_dir / "start"
    runs = []
    if tokenizer := tokenizer_stage(config, start, model.layout.num_frames):
        runs.append(tokenizer_run(tokenizer, model.tokenizer))
    if pretrain := pretrain_stage(config, start, None):
        runs.append(pretrain_run(pretrain, model))
    if finetune := finetune_stage(config, start):
        runs.append(finetune_run(finetune, model))
    if not runs:
        raise UserError(
            "Nothing would be trained: give tokenizer_steps, pretrain_steps or steps a positive "
            "value."
        )
    return runs


def tokenizer_run(config: TokenizerConfig, tokenizer: Tokenizer) -> Run:
    """`vidwm tokenizer`."""
    return Run("tokenizer", config, tokenizer_lines(tokenizer), tokenizer_step(config, tokenizer))


def pretrain_run(config: PretrainConfig, model: WorldModel) -> Run:
    """`vidwm pretrain`."""
    return Run("pretrain", config, model_lines(model, config), pretrain_step(config, model))


def finetune_run(config: FinetuneConfig, model: WorldModel) -> Run:
    """`vidwm finetune --model`."""
    return Run("finetune", config, model_lines(model, config), finetune_step(config, model))


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


def model_lines(model: WorldModel, options: LoraOptions) -> list[list[str]]:
    """Parameters and sequence of a world model, and of what is trained beside them."""
    layout, transformer = model.layout, model.transformer
    lines = [
        *tokenizer_lines(model.tokenizer),
        ["transformer", f"{size(transformer) / 1e6:.2f} M parameters"],
    ]
    if options.lora_rank:
        added = size(with_adapters(transformer, options)) - size(transformer)
        lines.append(["low-rank updates", f"{added / 1e6:.2f} M parameters"])
    return [
        *lines,
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


def run_rows(run: Run) -> list[list[str]]:
    """Memory, floor of a step and of the run, by the number of GPUs."""
    floors = [f"{gpu.name}, {what}" for gpu in GPUS for what in ("step", "run")]
    rows = [["GPUs", "clips each", "peak GB each", *floors]]
    for count in GPU_COUNTS:
        clips = clips_each(run, count)
        step = run.step_of(clips)
        cells = []
        for gpu in GPUS:
            seconds = step.floor(gpu)
            cells += [f"{seconds:.2f} s", f"{seconds * run.config.steps / 3600:.1f} h"]
        rows.append([str(count), str(clips), f"{step.peak / 1e9:.1f}", *cells])
    return rows


def whole_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Memory and floor of runs one after the other, by the number of GPUs."""
    rows = [["GPUs", "peak GB each", *(gpu.name for gpu in GPUS)]]
    for count in GPU_COUNTS:
        steps = [run.step_of(clips_each(run, count)) for run in runs]
        seconds = [
            sum(step.floor(gpu) * run.config.steps for run, step in zip(runs, steps, strict=True))
            for gpu in GPUS
        ]
        peak = max(step.peak for step in steps)
        rows.append([str(count), f"{peak / 1e9:.1f}", *(f"{s / 3600:.1f} h" for s in seconds)])
    return rows


def clips_each(run: Run, count: int) -> int:
    """Clips of a step for each of `count` GPUs."""
    return -(-run.config.batch_size // count)
