"""The metrics of an evaluation: which are measured, which way is better, how they are written."""

from __future__ import annotations

from vidwm_kernels.pixel_errors import WINDOW

from vidwm.errors import UserError
from vidwm.reward.mix import HIGHER_IS_BETTER, check_metric, network_of
from vidwm.reward.perceptual import MIN_SIZE, TRUNKS, available_perceptual

MOVING_METRICS = ("moving_mae", "moving_mse")
# How far a pixel's largest channel must be from the last context frame to count as moving.
MOVING_THRESHOLD = 0.05
REPETITION = "repetition_rate"
DECIMALS = {"mae": 5, "mse": 6, "psnr": 2, "ssim": 4, "moving_mae": 4, "moving_mse": 5}


def frame_metrics(perceptual: str, size: tuple[int, int]) -> tuple[str, ...]:
    """The metrics a `Scorer` is asked for, on frames of size (H, W).

    perceptual: `auto` (all networks at hand that can read such frames), `none`, or names joined
    by commas. UserError on a name that is no perceptual metric.
    """
    pixel = ("mae", "mse", "psnr", "ssim") if min(size) >= WINDOW else ("mae", "mse", "psnr")
    if perceptual == "none":
        return pixel
    if perceptual == "auto":
        return pixel + (tuple(available_perceptual()) if min(size) >= MIN_SIZE else ())
    names = [name.strip() for name in perceptual.split(",")]
    for name in names:
        check_metric(name)
        if network_of(name) not in TRUNKS:
            raise UserError(
                f"--perceptual names {name!r}, which is no perceptual network and is measured in "
                f"any case; name networks such as st_lpips_alex, or say auto or none."
            )
    # The short name `lpips` is written out, so that a report says which network it was.
    return pixel + tuple(dict.fromkeys(network_of(name) for name in names))


def higher_is_better(metric: str) -> bool:
    """True of PSNR and SSIM, False of distances, errors and the repetition rate."""
    return metric in HIGHER_IS_BETTER


def arrow(metric: str) -> str:
    """The better direction."""
    return "↑" if higher_is_better(metric) else "↓"


def written(metric: str, value: float | None) -> str:
    """A score with the decimals of its metric; a dash when there is none."""
    return "-" if value is None else f"{value:.{DECIMALS.get(metric, 4)}f}"
