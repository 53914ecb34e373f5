"""Post-train one base model in several ways, and measure them all against it on the same windows.

    python tools/study.py group_size --config configs/finetune_multistep.yaml --steps 30
    python tools/study.py metric --config ...       one model per metric: does each win its own?
    python tools/study.py repetition --config ...   with and without a penalty on repeated frames

Every variant is a run of `vidwm finetune` with the config's settings but those named in `VARIANTS`,
then a run of `vidwm evaluate` with the base model beside it, all with one seed. Writes to
runs/study_<name>/ a folder of each, and study.md (rows with 95 % intervals over episodes, config,
seed and commit), study.json and study.png. A variant that is measured is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vidwm.config import EvaluateConfig
from vidwm.config_loader import load_config, read_mapping
from vidwm.evaluation.evaluate import evaluate
from vidwm.evaluation.metrics import arrow, higher_is_better
from vidwm.evaluation.tables import markdown
from vidwm.finetune_config import FinetuneConfig
from vidwm.training.checkpoint import list_checkpoints
from vidwm.training.grpo import finetune
from vidwm.training.run_folder import RunFolder

ROLLOUTS = 128  # of a step, however they are divided into groups
COMPARISON = "model_vs_base"


def variants(study: str, reward: str) -> dict[str, dict[str, str]]:
    """Settings by name of variant, beside those of the config whose reward is given."""
    if study == "group_size":
        return {
            f"groups of {size}": {"group_size": str(size), "batch_size": str(ROLLOUTS // size)}
            for size in (4, 8, 16, 32)
        }
    if study == "metric":
        # PSNR and SSIM are no means over places, so no token has a share of its own in them.
        credit = {"psnr": "rollout", "ssim": "rollout"}
        return {
            f"{name}": {"reward": f"{name}=1", "credit": credit.get(name, "local")}
            for name in ("mae", "mse", "psnr", "ssim", "lpips")
        }
    return {
        "no penalty": {"credit": "rollout"},
        "penalty 0.1": {"credit": "rollout", "reward": f"{reward},repetition=0.1"},
        "penalty 1": {"credit": "rollout", "reward": f"{reward},repetition=1"},
    }


def measured(
    config: Path, changes: dict[str, str], steps: int, folder: Path, windows: int
) -> dict[str, Any]:
    """The evaluation report of one variant, made unless it is there."""
    report, asked = folder / "evaluate" / "report.json", folder / "asked.json"
    told = {"config": read_mapping(config), "changes": changes, "steps": steps, "windows": windows}
    ours = asked.is_file()
    if ours and json.loads(asked.read_text(encoding="utf-8")) != told:
        raise SystemExit(f"study: {folder} was asked other things; remove it or give --output.")
    if not report.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        asked.write_text(json.dumps(told), encoding="utf-8")
        flags = {"steps": str(steps), "output_dir": str(folder / "finetune"), **changes}
        quiet = {"eval_every": "0", "sample_every": "0", "keep_last": "1"}
        settings = load_config(FinetuneConfig, config, quiet | flags)
        begun = list_checkpoints(RunFolder(settings.output_dir).checkpoints)
        if ours and not begun:  # it was stopped before it saved any
            shutil.rmtree(settings.output_dir, ignore_errors=True)
        settings = dataclasses.replace(settings, resume=bool(begun))
        model = finetune(settings)
        if int(model.resolve().parent.name) < steps:
            raise SystemExit("study: stopped; the same command goes on.")
        evaluate(
            EvaluateConfig(
                data=settings.data,
                model=model,
                base=settings.model,
                output_dir=report.parent,
                windows_per_episode=windows,
                num_samples=2,
                seed=settings.seed,
            )
        )
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def rows(reports: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A table: a variant per row, changes to the base per metric."""
    metrics = next(iter(reports.values()))["metrics"]
    table = [["variant", *(f"{metric} {arrow(metric)}" for metric in metrics)]]
    for name, report in reports.items():
        table.append([name, *(_cell(report["comparisons"][COMPARISON][m]) for m in metrics)])
    return table


def _cell(difference: dict[str, Any]) -> str:
    """In percent, or as it is where the base has nothing to take a percentage of."""
    change = difference["percent"]
    if change["low"] is not None:
        return f"{change['change']:+.1f} % [{change['low']:+.1f}, {change['high']:+.1f}]"
    change = difference["absolute"]
    return f"{change['change']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]"


def figure(reports: dict[str, dict[str, Any]], title: str) -> Figure:
    """Changes in percent of the base with their intervals, a panel per metric, better upwards."""
    metrics = [
        metric
        for metric in next(iter(reports.values()))["metrics"]
        if all(
            r["comparisons"][COMPARISON][metric]["percent"]["low"] is not None
            for r in reports.values()
        )
    ]
    drawing = Figure(figsize=(2.4 * len(metrics), 3.6), layout="constrained")
    axes = drawing.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(axes, metrics, strict=True):
        for place, report in enumerate(reports.values()):
            change = report["comparisons"][COMPARISON][metric]["percent"]
            low, middle, high = change["low"], change["change"], change["high"]
            panel.errorbar(
                [place], [middle], [[middle - low], [high - middle]], fmt="o", color="#0072B2"
            )
        panel.axhline(0, color="#999999", linewidth=1)
        panel.set_xticks(range(len(reports)), list(reports), rotation=90)
        panel.set_xlim(-0.5, len(reports) - 0.5)
        panel.set_title(metric, fontsize=9)
        if not higher_is_better(metric):
            panel.invert_yaxis()
    axes[0].set_ylabel("change to the base, %; up is better")
    drawing.suptitle(title, fontsize=10)
    return drawing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("group_size", "metric", "repetition"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--windows", type=int, default=2, help="per held-out episode")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    output = options.output or Path(f"runs/study_{options.study}")
    reward = read_mapping(options.config).get("reward", "lpips=1,mae=1")
    reports = {
        name: measured(
            options.config,
            changes,
            options.steps,
            output / name.replace(" ", "_").replace(".", "_"),
            options.windows,
        )
        for name, changes in variants(options.study, reward).items()
    }
    one = next(iter(reports.values()))
    about = (
        f"`python tools/study.py {options.study} --config {options.config} --steps {options.steps} "
        f"--windows {options.windows}`: seed {one['config']['seed']}, commit "
        f"`{(one['commit'] or 'unknown')[:12]}`, {one['data']['windows']} windows of "
        f"{one['data']['episodes']} held-out episodes. Change to the base model, in percent."
    )
    table = markdown(rows(reports))
    (output / "study.md").write_text(f"{about}\n\n{table}\n", encoding="utf-8")
    (output / "study.json").write_text(json.dumps(reports, indent=1), encoding="utf-8")
    title = f"{options.study.replace('_', ' ')}, {options.steps} steps of {ROLLOUTS} rollouts"
    figure(reports, title).savefig(output / "study.png", dpi=120)
    print(f"{about}\n\n{table}")


if __name__ == "__main__":
    main()
