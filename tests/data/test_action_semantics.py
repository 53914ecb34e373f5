"""What action rows mean: by hand, against a plain loop, and from a span as from an episode."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidwm.data.action_semantics import ActionSemantics, few_valued, numbered
from vidwm.data.clip import Episode
from vidwm.data.datasets import open_dataset
from vidwm.data.joined import Joined
from vidwm.data.meant import (
    Meant,
    as_recorded,
    base_of,
    meant_rows,
    recorded_actions,
    with_meaning,
)
from vidwm.data.recordings import open_recordings
from vidwm.data_config import DataOptions
from vidwm.errors import UserError

ROWS = np.array([[0, 10], [1, 10], [3, 20], [6, 20], [10, 10]], np.float32)


def applied(rows: np.ndarray = ROWS, skip: int = 1, **semantics: Any) -> list[list[float]]:
    found = ActionSemantics(**semantics).apply(rows, rows[0], skip)
    return found.tolist()  # type: ignore[no-any-return]


def test_as_recorded_nothing_changes() -> None:
    assert applied() == ROWS.tolist()


def test_rows_of_a_step_become_one() -> None:
    assert applied(skip=2)[1:] == [[1, 10, 3, 20], [3, 20, 6, 20], [6, 20, 10, 10], [10, 10] * 2]
    assert applied(skip=2, skipped="last")[1:3] == [[3, 20], [6, 20]]
    assert applied(skip=2, skipped="sum")[1:3] == [[4, 30], [9, 40]]
    assert applied(skip=3, skipped="sum", discrete=(1,))[1] == [10, 20]  # 1 + 3 + 6; the last


def test_shift_moves_rows_up() -> None:
    assert [row[0] for row in applied(shift=1)] == [1, 3, 6, 10, 10]
    assert [row[0] for row in applied(shift=-2)] == [0, 0, 0, 1, 3]


def test_differences_leave_commands_alone() -> None:
    assert applied(form="delta") == [[0, 0], [1, 0], [2, 10], [3, 0], [4, -10]]
    assert applied(form="delta", discrete=(1,))[2:] == [[2, 20], [3, 20], [4, 10]]
    assert applied(form="delta", shift=1)[0] == [1, 0]  # of the true predecessor
    # What a step moves is the sum of its rows' differences.
    assert [row[0] for row in applied(form="delta", skip=2, skipped="sum", shift=1)][:3] == [
        3,
        5,
        7,
    ]


@pytest.mark.parametrize("form", ["recorded", "delta"])
@pytest.mark.parametrize("skipped", ["concatenate", "sum", "last"])
def test_equals_a_plain_loop(form: Any, skipped: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    for shift, skip, discrete in itertools.product((-1, 0, 2), (1, 3), ((), (2,))):
        base = rows.copy()
        for t in range(7):
            for d in range(3):
                if form == "delta" and d not in discrete:
                    base[t, d] = rows[t, d] - rows[max(t - 1, 0), d]
        expected = []
        for t in range(7):
            step = [base[min(max(t + shift + i, 0), 6)] for i in range(skip)]
            one = np.concatenate(step) if skipped == "concatenate" else step[-1].copy()
            if skipped == "sum":
                for d in set(range(3)) - set(discrete):
                    one[d] = sum(row[d] for row in step)
            expected.append(one)
        semantics = ActionSemantics(form=form, shift=shift, skipped=skipped, discrete=discrete)
        np.testing.assert_allclose(semantics.apply(rows, rows[0], skip), expected, atol=1e-6)


def test_names_and_discrete_dimensions_follow_the_rows() -> None:
    both = ActionSemantics(discrete=(1,))
    assert both.names(("x", "grip"), 2) == ("x.0", "grip.0", "x.1", "grip.1")
    assert both.discrete_after(2, 2) == (1, 3)
    last = ActionSemantics(skipped="last", discrete=(1,))
    assert last.names(("x", "grip"), 2) == ("x", "grip") and last.discrete_after(2, 2) == (1,)


def test_few_valued_dimensions_are_found() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.normal(size=400), rng.integers(0, 2, 400), rng.integers(0, 40, 400), np.ones(400)], 1
    )
    assert few_valued(rows) == (1, 3)
    assert few_valued(np.repeat(rows, 100, axis=0)) == (1, 3)
    assert few_valued(rows[:7]) == (3,)  # two values in seven rows say nothing


def test_unknown_names_are_listed() -> None:
    assert numbered(("x", "y", "grip"), ["grip", "x", "x"]) == (0, 2)
    with pytest.raises(UserError, match="no action dimension 'grasp'; the names are x, grip"):
        numbered(("x", "grip"), ["grasp"])


class Recorded:
    """Two episodes in memory that are read by spans."""

    path, format, fps, cameras, camera = Path("memory"), "memory", 10.0, ("main",), "main"
    action_names, episode_ids, lengths = ("x", "y", "grip"), ["a", "b"], [9, 12]

    def __len__(self) -> int:
        return 2

    def episode(self, index: int) -> Episode:
        T = self.lengths[index]
        frames = np.arange(T, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
        actions = np.random.default_rng(index).normal(size=(T, 3)).astype(np.float32)
        return Episode(id=self.episode_ids[index], frames=frames, actions=actions, fps=10.0)

    def span(self, index: int, start: int, stop: int) -> Episode:
        return self.episode(index).cut(start, stop)


@pytest.mark.parametrize("form", ["recorded", "delta"])
def test_a_span_is_a_cut_of_the_episode(form: Any) -> None:
    for shift, skipped, skip in itertools.product((-2, 0, 3), ("concatenate", "sum"), (1, 3)):
        semantics = ActionSemantics(form=form, shift=shift, skipped=skipped)
        dataset = Meant(Recorded(), semantics, skip)
        for start, stop in ((0, 4), (3, 9), (8, 12), (0, 12)):
            whole, span = dataset.episode(1).cut(start, stop), dataset.span(1, start, stop)
            assert (span.actions == whole.actions).all() and (span.frames == whole.frames).all()
    with pytest.raises(ValueError, match="frames 3 to 9 of an episode of 9 frames"):
        dataset.span(0, 3, 10)


def test_states_take_the_place_of_actions(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]],
) -> None:
    root, _, actions = lerobot
    states = actions[2][:, :2]  # as the fixture wrote them
    dataset = open_dataset(root)
    reached = with_meaning(dataset, ActionSemantics(form="state"))
    assert reached.action_names == ("x", "y")
    assert (reached.episode(2).actions == np.concatenate([states[1:], states[-1:]])).all()
    moved = with_meaning(dataset, ActionSemantics(form="state_delta", skipped="sum"), 3)
    expected = states[3:] - states[:-3]
    np.testing.assert_allclose(moved.episode(2).actions[:-3], expected, atol=1e-6)
    assert (moved.span(2, 1, 5).actions == moved.episode(2).actions[1:5]).all()
    assert base_of(dataset, "state_delta").action_names == ("x", "y")


def test_states_are_not_read_from_outside_of_the_folder(
    lerobot: tuple[Path, list[np.ndarray], list[np.ndarray]], tmp_path: Path
) -> None:
    dataset = open_dataset(shutil.copytree(lerobot[0], tmp_path / "set"))
    file = tmp_path / "set/data/chunk-000/file-000.parquet"
    file.rename(tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(UserError, match=r"is a link to .*elsewhere\.parquet, outside of"):
        with_meaning(dataset, ActionSemantics(form="state"))


def test_recordings_without_states_are_told_so() -> None:
    with pytest.raises(UserError, match="memory holds no robot states"):
        with_meaning(Recorded(), ActionSemantics(form="state"))


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Joined]:
    """two(settings): a mixture of npz sets a and b, b with settings of its own."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        Path(name).mkdir()
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
        np.savez(f"{name}/0.npz", image=image, action=rng.normal(size=(6, 2)).astype(np.float32))

    def make(settings: str) -> Joined:
        Path("mix.yaml").write_text(f"a: 1\nb: {{{settings}}}\n")
        dataset = open_recordings(DataOptions(data=Path("mix.yaml")))
        assert isinstance(dataset, Joined)
        return dataset

    return make


def test_a_part_has_semantics_of_its_own_below_those_of_the_model(
    two: Callable[[str], Joined],
) -> None:
    dataset = two("action_shift: 1, action_form: delta, discrete_actions: [action_1]")
    recorded = [open_dataset(name).episode(0).actions for name in "ab"]
    own = ActionSemantics(form="delta", shift=1, discrete=(1,))
    expected = own.apply(recorded[1], recorded[1][0], 1)
    assert (dataset.episode(0).actions == recorded[0]).all()
    assert (dataset.episode(1).actions == expected).all()
    whole = with_meaning(dataset, ActionSemantics(skipped="sum"), 2)
    both = expected + np.concatenate([expected[1:], expected[-1:]])
    assert (whole.episode(1).actions == both).all()
    # The same without frames, from what a cache holds.
    assert (recorded_actions(whole, 1) == recorded[1]).all()
    assert (meant_rows(whole, 1, recorded[1]) == both).all()
    assert as_recorded(whole.parts[1].dataset).format == "npz"
    assert not isinstance(as_recorded(whole.parts[1].dataset), Meant)


def test_a_part_with_unknown_settings_is_a_sentence(two: Callable[[str], Joined]) -> None:
    with pytest.raises(UserError, match="action_form must be one of recorded, delta, state"):
        two("action_form: velocity")
    with pytest.raises(UserError, match="no action dimension 'grip'"):
        two("discrete_actions: [grip]")
