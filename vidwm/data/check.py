"""`vidwm data check`: what is wrong with recordings, and where, before anyone trains on them.

Every episode is opened once and looked at (`faults`), time stamps are held against the rate
(`timestamps`), and on up to 64 episodes it is tested whether actions lead frames (`lag`). One bad
episode does not stop the check. The fix report lists the good episodes for `--episodes`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from vidwm.data.cameras import open_cameras
from vidwm.data.clip import EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.faults import ActionTally, digest, episode_faults
from vidwm.data.inspect import check_writable, write_json
from vidwm.data.joined import recordings_of
from vidwm.data.lag import LAGS, LagEvidence, LagResult, lag_evidence, lag_test
from vidwm.data.looking import choose_sample
from vidwm.data.mixture import mixture_lines, open_mixture
from vidwm.data.mixture_file import is_mixture
from vidwm.data.timestamps import uneven_episodes
from vidwm.data_config import CheckConfig, RecordingOptions
from vidwm.errors import UserError

LAG_EPISODES = 64
SURE_PARTS = 10  # episodes in the alignment test, from which on late actions count as wrong
LISTED = 20  # bad episodes that are named on screen
LIBERO_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")


@dataclass
class Findings:
    """What is wrong: per episode (id: phrases), with the set as a whole; and what is worth a look.

    `good` are the episodes without a fault of their own, in the dataset's order, each once however
    many of its views were looked at.
    """

    episodes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    whole: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)
    checked: int = 0
    frames: int = 0
    lag: LagResult | None = None

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return not self.episodes and not self.whole


def check_command(config: CheckConfig) -> int:
    """Print the findings and write the fix report; 0 if all is fine, 1 if something is wrong."""
    if config.fix_report:
        check_writable(config.fix_report)
    damaged: dict[str, dict[str, str]] = defaultdict(dict)
    if is_mixture(config.data):
        mixture = open_mixture(config, lambda name, part: _open(part, damaged[name]))
        print("\n".join(mixture_lines(mixture)))
        datasets = {part.name: part.dataset for part in mixture.parts}
    else:
        datasets = {"": _open(config, damaged[""])}
    found = {}
    for name, dataset in datasets.items():
        found[name] = check_dataset(dataset, damaged=damaged[name], seed=config.seed)
        print(f"\n== {name} ==\n" * bool(name) + "\n".join(report_lines(dataset, found[name])))
    report = fix_report(config, found)
    if config.fix_report and report["episodes"]:
        write_json(config.fix_report, report)
        print(f"\n{len(report['episodes'])} good episodes: {config.fix_report} (for --episodes)")
    elif config.fix_report:
        print(f"\nNo episode is good; {config.fix_report} is not written.")
    return 0 if all(findings.fine for findings in found.values()) else 1


def _open(options: RecordingOptions, damaged: dict[str, str]) -> EpisodeDataset:
    return open_cameras(
        options.data,
        options.camera,
        lambda data, name: open_dataset(data, camera=name, split=options.split, damaged=damaged),
    )


def check_dataset(
    dataset: EpisodeDataset, *, damaged: dict[str, str] | None = None, seed: int = 0
) -> Findings:
    """Look at every episode; `damaged` are those the reader could not open (id: why)."""
    found = Findings()
    for name, why in (damaged or {}).items():
        found.episodes[name].append(why)
    tally = ActionTally(len(dataset.action_names))
    tested = set(choose_sample(dataset.lengths, LAG_EPISODES, seed).numbers)
    evidence: list[LagEvidence | None] = []
    seen: dict[bytes, str] = {}
    sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for number in tqdm(
        range(len(dataset)), desc="check", unit="episode", leave=False, disable=None
    ):
        name = dataset.episode_ids[number]
        try:
            episode = dataset.episode(number)
        except UserError as error:
            found.episodes[name].append(str(error))
            continue
        found.frames += len(episode)
        faults = list(episode_faults(episode, dataset.lengths[number]))
        twin = seen.setdefault(digest(episode), name)
        if twin != name:
            faults.append(f"the same frames as episode {twin}")
        sizes[episode.frames.shape[2:]].append(name)
        tally.add(episode.actions)
        if faults:
            found.episodes[name].extend(faults)
        elif number in tested:
            evidence.append(lag_evidence(episode))
    found.checked = len(dataset) + len(damaged or {})
    _compare_sizes(found, sizes)
    for name, what in uneven_episodes(dataset).items():
        found.episodes[name].append(what)
    if tally.rows:
        found.notes += tally.notes(dataset.action_names)
    found.notes += _flip_notes(dataset)
    found.lag = lag_test([entry for entry in evidence if entry is not None])
    _judge_lag(found)
    recordings = recordings_of(dataset)
    named = list(zip(dataset.episode_ids, recordings, strict=True))
    bad = {recording for name, recording in named if name in found.episodes} | found.episodes.keys()
    found.good = [recording for recording in dict.fromkeys(recordings) if recording not in bad]
    return found


def report_lines(dataset: EpisodeDataset, found: Findings) -> list[str]:
    """The findings for people."""
    lines = [
        f"data     {dataset.path} ({dataset.format}, camera {getattr(dataset, 'camera', None)})",
        f"checked  {found.checked:,} episodes, {found.frames:,} frames",
        *_lag_lines(found.lag),
        *(f"note     {note}" for note in found.notes),
        "",
    ]
    if found.fine:
        return [*lines, "Nothing is wrong."]
    lines += [f"wrong    {what}" for what in found.whole]
    if found.episodes:
        lines.append(f"{len(found.episodes)} of {found.checked:,} episodes are wrong:")
        for name, faults in list(found.episodes.items())[:LISTED]:
            lines += [f"  {name}: {fault}" for fault in faults]
        if (left := len(found.episodes) - LISTED) > 0:
            lines.append(f"  and {left} more; --fix_report lists all")
    return lines


def fix_report(config: CheckConfig, found: dict[str, Findings]) -> dict[str, Any]:
    """What `--episodes` reads, with the reasons for what is not in it.

    `found` by the name of each part of a mixture; "" of what is none.
    """
    settings = {"data": str(config.data), "camera": config.camera, "split": config.split}
    if "" in found:
        return settings | _findings_report(found[""])
    parts = {name: _findings_report(findings) for name, findings in found.items()}
    good = [f"{name}/{episode}" for name, part in parts.items() for episode in part["episodes"]]
    return settings | {"episodes": good, "parts": parts}


def _findings_report(found: Findings) -> dict[str, Any]:
    return {
        "episodes": found.good,
        "left_out": dict(found.episodes),
        "wrong_with_all": found.whole,
        "notes": found.notes,
        "lag": found.lag
        and {
            "lags": list(LAGS),
            "scores": list(found.lag.scores),
            "standard_errors": list(found.lag.certainty),
            "most": found.lag.best,
            "most_in_resamples": list(found.lag.wins),
            "onset": found.lag.onset,
        },
    }


def _compare_sizes(found: Findings, sizes: dict[tuple[int, ...], list[str]]) -> None:
    """Episodes of another resolution than most."""
    usual = max(sizes, key=lambda size: len(sizes[size]), default=None)
    for size, names in sizes.items():
        if size != usual and usual is not None:
            for name in names:
                found.episodes[name].append(
                    f"frames are {size[1]}x{size[0]}, those of most episodes {usual[1]}x{usual[0]}"
                )


def _flip_notes(dataset: EpisodeDataset) -> list[str]:
    """A hint from names alone: what is up cannot be told from pixels."""
    camera, flip = str(getattr(dataset, "camera", "")), getattr(dataset, "flip", None)
    if dataset.format == "hdf5" and camera.split("/")[-1] in LIBERO_CAMERAS and not flip:
        return [
            f"camera {camera} has the name LIBERO uses, whose files hold images upside down; look "
            f"at `vidwm data inspect --contact_sheet`"
        ]
    return []


def _judge_lag(found: Findings) -> None:
    onset = found.lag.onset if found.lag else None
    if found.lag is not None and onset is not None and onset > 0:
        sure = found.lag.whole and found.lag.parts >= SURE_PARTS
        (found.whole if sure else found.notes).append(
            f"motion comes {_rows(onset)} before the action that explains it: the actions are "
            f"stored late, each row should move up by {onset}"
            + ("" if sure else " (or chance: this is little data)")
        )
    if onset is not None and onset < 0:
        found.notes.append(
            f"motion begins {_rows(-onset)} after its action: the robot follows late, or the "
            f"actions are stored early; pictures cannot tell which"
        )


def _lag_lines(lag: LagResult | None) -> list[str]:
    if lag is None:
        return ["lag      not tested: too few frames, or nothing moves, or no action changes"]
    table = ", ".join(
        f"{number:+d}: {score:.3f} ({errors:.1f})"
        for number, score, errors in zip(LAGS, lag.scores, lag.certainty, strict=True)
    )
    lines = [
        f"lag      {table}",
        "         (share of what is new in an action that the next motion explains, and that over",
        "         its standard error)",
    ]
    wins = lag.wins[LAGS.index(lag.best)]
    drawn = "the episodes" if lag.whole else "parts of them, as there are few episodes"
    most = f"{lag.best:+d} (so in {wins:.0%} of resamples of {drawn})"
    if lag.onset is None:
        return [*lines, f"         cannot tell: within chance; most at {most}"]
    says = "actions lead frames" if lag.onset <= 0 else "actions come after what they explain"
    return [*lines, f"         {says}: they show from lag {lag.onset:+d} on, most at {most}"]


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"
