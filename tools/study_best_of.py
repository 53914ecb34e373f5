"""Best of N at test time: how many futures of the base equal one of the post-trained model?

    python tools/study_best_of.py --data assets/sample --base assets/tiny --model runs/.../model

Draws up to 100 futures of every window and keeps, metric by metric, the one nearest to what really
happened. That choice looks at the truth: it is an oracle, a bound on what choosing could give, and
no way to predict. RLVR-World (arXiv 2505.13934, section 5.2) compares with it as test-time scaling.
Writes best_of.md, best_of.json and best_of.png to runs/study_best_of/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from vidwm import provenance
from vidwm.config import EvaluateConfig
from vidwm.evaluation.bootstrap import Bootstrap
from vidwm.evaluation.evaluate import open_model
from vidwm.evaluation.metrics import arrow, higher_is_better, written
from vidwm.evaluation.predict import predict
from vidwm.evaluation.sources import open_heldout
from vidwm.evaluation.tables import markdown
from vidwm.evaluation.windows import spread_windows
from vidwm.reward.scorer import Scorer
from vidwm.rollout.sampling import Sampling

METRICS = ("lpips", "mae", "mse", "psnr", "ssim")
COUNTS = (1, 5, 20, 100)


def best_scores(
    folder: Path, data: Path, counts: tuple[int, ...], windows: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By metric, (W, len(counts)) means over frames of the best of so many futures; episodes (W,).

    Whichever future is best as a whole, by that metric.
    """
    model = open_model(folder, "auto", 0)
    config = EvaluateConfig(data=data, model=folder, output_dir=Path("unused"))
    source, _ = open_heldout(config, model, 0)
    chosen = spread_windows(source.windows, windows)
    scorer, c = Scorer(METRICS), model.setting.context_frames
    found: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    for number in tqdm(chosen, desc=str(folder), unit="window", disable=None):
        batch = source.batch([number])
        futures = predict(model, batch, Sampling(seed=seed), max(counts))
        scores = scorer.score_frames(futures.frames.cpu(), batch.float_frames()[:, c:])
        for metric in METRICS:
            means = scores[metric][0].mean(-1).numpy()  # (N,)
            best = np.maximum if higher_is_better(metric) else np.minimum
            found[metric].append(best.accumulate(means)[np.array(counts) - 1])
    episodes = np.array([source.windows[number].episode for number in chosen])
    return {metric: np.stack(rows) for metric, rows in found.items()}, episodes


def intervals(values: np.ndarray, episodes: np.ndarray) -> list[tuple[float, float, float]]:
    """(mean, low, high) of each column, over episodes."""
    names = np.unique(episodes)
    means = np.stack([values[episodes == name].mean(axis=0) for name in names])
    found = Bootstrap(len(names)).mean(means)
    ends = zip(found.value, found.low, found.high, strict=True)
    return [(float(value), float(low), float(high)) for value, low, high in ends]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="post-trained from the base")
    parser.add_argument("--windows", type=int, default=2, help="per held-out episode")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/study_best_of"))
    options = parser.parse_args()
    counts = tuple(sorted(options.counts))
    of_base, episodes = best_scores(
        options.base, options.data, counts, options.windows, options.seed
    )
    of_model, _ = best_scores(options.model, options.data, (1,), options.windows, options.seed)
    table = [["metric", *(f"base, best of {n} (oracle)" for n in counts), "post-trained, 1"]]
    drawing = Figure(figsize=(3 * len(METRICS), 3.2), layout="constrained")
    axes = drawing.subplots(1, len(METRICS))
    results = {}
    for panel, metric in zip(axes, METRICS, strict=True):
        base = intervals(of_base[metric], episodes)
        (model,) = intervals(of_model[metric], episodes)
        results[metric] = {"base": dict(zip(counts, base, strict=True)), "model": model}
        cells = [
            f"{written(metric, mean)} [{written(metric, low)}, {written(metric, high)}]"
            for mean, low, high in [*base, model]
        ]
        table.append([f"{metric} {arrow(metric)}", *cells])
        mean, low, high = np.array(base).T
        panel.plot(counts, mean, "o-", color="#0072B2", label="base, best of N (oracle)")
        panel.fill_between(counts, low, high, color="#0072B2", alpha=0.2)
        panel.axhline(model[0], color="#D55E00", label="post-trained, one future")
        panel.axhspan(model[1], model[2], color="#D55E00", alpha=0.15)
        panel.set_xscale("log")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.set_title(f"{metric} {arrow(metric)}", fontsize=9)
        panel.set_xlabel("futures drawn")
    axes[0].legend(fontsize=7)
    about = (
        f"Best of N futures chosen with the truth at hand (an oracle), {len(episodes)} windows of "
        f"{len(np.unique(episodes))} held-out episodes, seed {options.seed}, commit "
        f"`{(provenance.git_commit() or 'unknown')[:12]}`; base {options.base}, post-trained "
        f"{options.model}. 95 % intervals over episodes."
    )
    options.output.mkdir(parents=True, exist_ok=True)
    text = f"{about}\n\n{markdown(table)}\n"
    (options.output / "best_of.md").write_text(text, encoding="utf-8")
    (options.output / "best_of.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    drawing.savefig(options.output / "best_of.png", dpi=120)
    print(text)


if __name__ == "__main__":
    main()
