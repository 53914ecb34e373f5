"""The one training loop, of all three stages.

A stage knows its modules, how to draw the batch of a step, and its losses; the loop knows
everything else: optimizers, schedule, logging, sample videos, checkpoints, resuming, stopping.
Steps are counted from 0 for the stage and as "steps done" (from 1) in logs and checkpoints.
A resumed run equals an uninterrupted one bit for bit, because a stage draws its batch from
(seed, step) alone and everything else that can change is in the checkpoint.
"""

from __future__ import annotations

import errno
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vidwm.config import TrainOptions
from vidwm.device import pick_device
from vidwm.errors import UserError
from vidwm.training.checkpoint import (
    TrainState,
    list_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from vidwm.training.run_folder import RunFolder
from vidwm.training.runtime import (
    random_state,
    restore_random_state,
    seed_everything,
)
from vidwm.training.tracker import Tracker
from vidwm.training.updater import Updater, learning_rate


class NonFiniteLoss(UserError):
    """A loss or gradient became NaN or infinite; the last checkpoint is kept."""


class Stage(ABC):
    """What the loop asks of a training stage.

    `modules` are trained and saved; the loop moves them to the device and makes each an updater of
    the same name. `rates` are the peak learning rates of modules that have one of their own.
    Frozen helpers (a reference policy, a tokenizer) are the stage's own affair.
    `evaluate`, `sample_videos` and `export` run without gradients, with the modules in eval mode
    and, if EMA is on, their averaged weights; the numbers they draw do not touch training. They
    may leave a `warning`, said once, and a `stop_reason`, which ends the run with a checkpoint.
    """

    name: str
    modules: Mapping[str, nn.Module]
    rates: Mapping[str, float] = MappingProxyType({})
    fps: float = 10.0
    eval_every: int = 0
    warning: str = ""
    stop_reason: str = ""

    @abstractmethod
    def train_step(
        self, step: int, updaters: Mapping[str, Updater]
    ) -> Mapping[str, float | Tensor]:
        """Train on the batch of (seed, `step`): backward and apply as often as needed.

        Returns scalars to log; "loss", or else the first, is shown as progress.
        """

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the user-facing model into `directory`, which does not exist yet."""

    def evaluate(self) -> Mapping[str, float | Tensor]:
        """Held-out scalars to log every `eval_every` steps (0: never) and at the end."""
        return {}

    def sample_videos(self) -> Mapping[str, Tensor]:
        """Videos by name to show every `sample_every` steps: (T, 3, H, W) uint8, at `fps`."""
        return {}


def nothing_held_out(every: str) -> str:
    """What a stage warns of that is to measure held-out scores, `every` so often, on nothing."""
    return (
        "no episode is held out, or none that is long enough: there are no held-out scores to go "
        f"by; hold some out with heldout when the model is made, or ask for none with {every} 0"
    )


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a run ended: `finished`, or stopped early by a signal or its time limit."""

    step: int
    finished: bool
    checkpoint: Path


def fit(stage: Stage, options: TrainOptions, run: RunFolder) -> FitResult:
    """Train until `options.steps`, a signal or the time limit; always ends with a checkpoint.

    `run` comes from `open_run`, called before anything else is written there.
    UserError when a checkpoint does not fit or cannot be written; NonFiniteLoss on NaN.
    """
    updaters = prepare(stage, options)
    step, seconds = _restore(stage, updaters, run) if options.resume else (0, 0.0)
    with ExitStack() as stack:
        stack.enter_context(_disk_errors(run))
        stop = stack.enter_context(stop_requests(options.time_limit_minutes))
        run.record_start(step, options)
        tracker = Tracker(run, stage.name, step=step, total=options.steps, seconds=seconds)
        stack.enter_context(closing(tracker))
        stopped = ""
        while step < options.steps and not stopped:
            logs = _train_step(stage, updaters, run, step)
            step += 1
            tracker.advance()
            _report(stage, updaters, options, tracker, step, logs)
            stopped = stop.reason or stage.stop_reason
            if stopped or step == options.steps or _due(step, options.save_every, options.steps):
                _save(stage, updaters, run, options.keep_last, step, tracker.seconds)
        tracker.say(_farewell(stage, options, run, step, stopped))
    checkpoint = list_checkpoints(run.checkpoints)[-1]
    return FitResult(step=step, finished=step >= options.steps, checkpoint=checkpoint)


def prepare(stage: Stage, options: TrainOptions) -> dict[str, Updater]:
    """Seed, and make an updater for each module, moved to the device and in train mode."""
    if options.num_threads > 0:
        torch.set_num_threads(options.num_threads)
    device = pick_device(options.device)
    seed_everything(options.seed)
    updaters = {}
    for name, module in stage.modules.items():
        own = replace(options, learning_rate=stage.rates.get(name, options.learning_rate))
        updaters[name] = Updater(name, module.to(device).train(), own, device)
    return updaters


class StopRequests:
    """Reasons to stop after the present step; `reason` is empty while there is none."""

    def __init__(self, time_limit_minutes: float) -> None:
        self.signal = ""
        self._deadline = time.monotonic() + 60 * (time_limit_minutes or math.inf)

    @property
    def reason(self) -> str:
        return self.signal or ("time limit" if time.monotonic() >= self._deadline else "")


@contextmanager
def stop_requests(time_limit_minutes: float) -> Iterator[StopRequests]:
    """Turn the first Ctrl-C or SIGTERM into a request; the second acts as it always does."""
    requests = StopRequests(time_limit_minutes)
    before: dict[int, Any] = {}

    def request(number: int, frame: Any) -> None:
        requests.signal = signal.Signals(number).name
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        before = {n: signal.signal(n, request) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _due(step: int, every: int, steps: int) -> bool:
    """Whether something done `every` so many steps (0: never), and at the end, is due now."""
    return every > 0 and (step % every == 0 or step == steps)


def _train_step(
    stage: Stage, updaters: Mapping[str, Updater], run: RunFolder, step: int
) -> Mapping[str, float | Tensor]:
    for updater in updaters.values():
        updater.begin(step)
    try:
        return stage.train_step(step, updaters)
    except FloatingPointError as error:
        saved = list_checkpoints(run.checkpoints)
        kept = f"the last good checkpoint, {saved[-1]}, is kept" if saved else "nothing was saved"
        raise NonFiniteLoss(
            f"Stage {stage.name} stopped at step {step + 1}: {error}; {kept}; "
            f"lower learning_rate or raise warmup_steps, and look at the data of that step."
        ) from error


def _report(
    stage: Stage,
    updaters: Mapping[str, Updater],
    options: TrainOptions,
    tracker: Tracker,
    step: int,
    logs: Mapping[str, float | Tensor],
) -> None:
    """Log, evaluate and sample, whatever is due after `step` steps."""
    scalars: dict[str, float] = {}
    if _due(step, options.log_every, options.steps):
        scalars |= _floats(logs)
        for name, updater in updaters.items():
            scalars["grad_norm" if len(updaters) == 1 else f"grad_norm_{name}"] = updater.grad_norm
        scalars["learning_rate"] = learning_rate(options, step - 1)
    if _due(step, stage.eval_every, options.steps):
        with _evaluating(updaters):
            scalars |= _floats(stage.evaluate())
    if scalars:
        tracker.log(step, scalars)
    if stage.warning:
        tracker.say(f"{stage.name}: warning at step {step}: {stage.warning}")
        stage.warning = ""
    if _due(step, options.sample_every, options.steps):
        with _evaluating(updaters):
            for name, frames in stage.sample_videos().items():
                tracker.video(step, name, frames, stage.fps)


def _floats(scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    return {k: v.item() if isinstance(v, Tensor) else float(v) for k, v in scalars.items()}


@contextmanager
def _evaluating(updaters: Mapping[str, Updater]) -> Iterator[None]:
    """Averaged weights, eval mode, no gradients; training draws the same numbers afterwards."""
    tensors, scalars = random_state()
    with ExitStack() as stack, torch.no_grad():
        for updater in updaters.values():
            stack.enter_context(updater.evaluating())
        yield
    restore_random_state(tensors, scalars)


def _save(
    stage: Stage,
    updaters: Mapping[str, Updater],
    run: RunFolder,
    keep_last: int,
    step: int,
    seconds: float,
) -> None:
    tensors, scalars = random_state()
    parts = {"random": tensors}
    for updater in updaters.values():
        parts |= updater.state()
    state = TrainState(stage=stage.name, step=step, seconds=seconds, parts=parts, random=scalars)

    def export(directory: Path) -> None:
        with _evaluating(updaters):
            stage.export(directory)

    save_checkpoint(run.checkpoints, state, export, keep_last)


def _restore(stage: Stage, updaters: Mapping[str, Updater], run: RunFolder) -> tuple[int, float]:
    path = list_checkpoints(run.checkpoints)[-1]
    state = read_checkpoint(path)
    if state.stage != stage.name:
        raise UserError(f"{path} is of stage {state.stage}, not {stage.name}; check --output_dir.")
    try:
        for updater in updaters.values():
            updater.load_state(state.parts)
    except ValueError as error:
        raise UserError(
            f"Cannot resume from {path}: {error}; use the settings of {run.path / 'config.yaml'}."
        ) from None
    restore_random_state(state.parts["random"], state.random)
    return state.step, state.seconds


@contextmanager
def _disk_errors(run: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"Cannot write to {run.path}: no space left on device; "
            f"free some and continue with --resume."
        ) from error


def _farewell(stage: Stage, options: TrainOptions, run: RunFolder, step: int, stopped: str) -> str:
    if step >= options.steps:
        return f"{stage.name}: {step} steps done; {run.path}. A larger steps and --resume go on."
    return (
        f"{stage.name}: stopped at step {step} of {options.steps} ({stopped}); "
        f"continue with the same command and --resume (output_dir {run.path})."
    )
