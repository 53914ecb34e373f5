"""From losses to weights: AdamW, learning-rate schedule, clipping, EMA and the check for NaN.

The loop makes one `Updater` for each module that a stage trains. A stage calls `backward` once per
micro-batch and `apply` once per update, as often as it likes within a step:

    with updater.autocast():
        loss = loss_of(micro_batch) / num_micro_batches
    updater.backward(loss)
    ...
    updater.apply()

The learning rate follows the loop's steps, not the updates, and is a function of the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from vidwm.config import TrainOptions
from vidwm.training.ema import Ema
from vidwm.training.runtime import pick_precision


def learning_rate(options: TrainOptions, step: int) -> float:
    """Learning rate of `step` (from 0): linear warm-up, then constant, or half a cosine to 0."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.learning_rate
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Updater:
    """Trains one module, already on its device; raises FloatingPointError on NaN or infinity.

    `grad_norm` is the norm before clipping at the last `apply`. Parameters of two or more
    dimensions (matrices, kernels, maps) decay; biases and gains do not. Parameters that need no
    gradient stay as they are.
    """

    def __init__(
        self, name: str, module: nn.Module, options: TrainOptions, device: torch.device
    ) -> None:
        self.name, self.module, self.options, self.device = name, module, options, device
        self.precision = pick_precision(options.precision, device)
        self.grad_norm = 0.0
        self.step = 0
        decayed = {n: p for n, p in module.named_parameters() if p.ndim >= 2}
        others = {n: p for n, p in module.named_parameters() if p.ndim < 2}
        self._names = [*decayed, *others]
        self._parameters = [*decayed.values(), *others.values()]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(decayed.values()), "weight_decay": options.weight_decay},
                {"params": list(others.values()), "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        self._ema = Ema(module, options.ema_decay) if options.ema_decay > 0 else None

    def begin(self, step: int) -> None:
        """Set the learning rate of `step` (from 0); the loop calls it."""
        self.step = step
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.options, step)

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass belongs in here: bf16 where the run's precision says so.

        Close it before `apply`: autocast remembers the weights it converted until its end.
        """
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss to those not yet applied."""
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of the {self.name} is {loss.item()}")
        torch.autograd.backward(loss)

    def apply(self) -> float:
        """Clip, update the weights and their average, forget the gradients; returns their norm."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self.options.grad_clip)
        self.grad_norm = norm.item()
        if not math.isfinite(self.grad_norm):
            raise FloatingPointError(f"the gradient norm of the {self.name} is {self.grad_norm}")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update(self.module, self.step)
        return self.grad_norm

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The module in eval mode, with its averaged weights if there are any."""
        with ExitStack() as stack:
            if self._ema is not None:
                stack.enter_context(self._ema.swapped_in(self.module))
            self.module.eval()
            yield
        self.module.train()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything to continue from: name of a part -> its tensors."""
        entries = self._optimizer.state_dict()["state"].items()
        moments = {f"{self._names[i]}/{k}": value for i, e in entries for k, value in e.items()}
        parts = {self.name: self.module.state_dict(), f"{self.name}_optimizer": moments}
        if self._ema is not None:
            parts[f"{self.name}_ema"] = self._ema.tensors
        return parts

    def load_state(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Continue from what `state` returned; ValueError when it is of another model."""
        missing = self.state().keys() - parts.keys()
        if missing:
            raise ValueError(f"it holds no {min(missing)}")
        state: dict[int, dict[str, Tensor]] = {}
        try:
            self.module.load_state_dict(parts[self.name])
            for key, value in parts[f"{self.name}_optimizer"].items():
                name, _, moment = key.rpartition("/")
                state.setdefault(self._names.index(name), {})[moment] = value
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the {self.name} was built differently: {reason}") from None
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        if self._ema is not None:
            for name, value in parts[f"{self.name}_ema"].items():
                self._ema.tensors[name].copy_(value)
