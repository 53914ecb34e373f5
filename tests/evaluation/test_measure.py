"""What a score is: subjects, baselines, pairing and pixels, on worlds where the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vidwm.data.sampler import ClipSource
from vidwm.errors import UserError
from vidwm.evaluation import measure as measuring
from vidwm.evaluation import predict as predicting
from vidwm.evaluation.measure import BASE, CEILING, COPY, MODEL, SHUFFLED, Measurement, measure
from vidwm.evaluation.predict import copy_last_frame, predict, with_future_actions
from vidwm.evaluation.sources import clip_source
from vidwm.evaluation.summary import summarise
from vidwm.evaluation.windows import partners
from vidwm.reward import pixels
from vidwm.rollout.engine import Rollouts
from vidwm.rollout.sampling import Sampling
from vidwm.world_model.world_model import WorldModel

METRICS = ("mae", "psnr")


def source_of(dataset, model: WorldModel, horizon: int = 0) -> ClipSource:
    return clip_source(dataset, model, range(len(dataset)), horizon)


@pytest.fixture
def run(make_dataset: Callable, make_model: Callable) -> Callable[..., Measurement]:
    """Measure a tiny model on the first window of some episodes."""

    def run_it(dataset=None, model=None, per_episode: int = 1, **options) -> Measurement:
        model = model or make_model()
        source = source_of(dataset or make_dataset((12,) * 4), model)
        count = len(source.windows) // len(source.dataset)
        windows = [e * count + i for e in range(len(source.dataset)) for i in range(per_episode)]
        return measure(model, source, windows, metrics=METRICS, **options)

    return run_it


def test_copying_the_last_frame_is_perfect_where_nothing_moves(
    run: Callable, make_dataset: Callable
) -> None:
    found = run(make_dataset((12,) * 3, static=True))
    assert found.scores[COPY]["mae"].shape == (3, 3)
    assert not found.scores[COPY]["mae"].any()
    np.testing.assert_allclose(found.scores[COPY]["psnr"], 80, atol=1e-4)
    assert (found.scores[COPY]["repetition_rate"] == 1).all()
    assert not found.moving_pixels.any()
    # Without moving pixels there is nothing to say about them, not even that they are right.
    summary = summarise(found, resamples=100, seed=0)
    assert summary["subjects"][COPY]["moving_mse"]["mean"] is None
    assert summary["subjects"][COPY]["mae"]["mean"] == 0


def test_copying_fails_where_something_moves(run: Callable, make_dataset: Callable) -> None:
    moving = run(make_dataset((12,) * 2))
    # The square jumps 2 pixels per model frame: 4 x 2 pixels left behind, 4 x 2 newly covered.
    assert moving.moving_pixels[0].tolist() == [16, 32, 32]
    assert (moving.scores[COPY]["moving_mae"] > 0.5).all()
    assert (moving.scores[COPY]["mae"] > 0).all()


def test_the_copy_holds_the_last_context_frame(
    make_dataset: Callable, make_model: Callable
) -> None:
    batch = source_of(make_dataset((12,) * 2), make_model()).batch([1, 3])
    held = copy_last_frame(batch, 2)
    assert held.frames.shape == (2, 1, 3, 3, 16, 16) and held.repeats.all()
    for step in range(3):
        assert torch.equal(held.frames[:, 0, step], batch.float_frames()[:, 1])


def test_the_ceiling_is_what_true_tokens_decode_to(
    run: Callable, make_dataset: Callable, make_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset = make_model(), make_dataset((12,) * 4)
    batch = source_of(dataset, model).batch([0])
    truth = batch.float_frames()[:, 2:]
    context, tokens = model.encode(batch.float_frames())
    expected = pixels.mae(model.decode(tokens, context), truth)[0]

    def oracle(transformer, layout, prompt, bins, *, group_size, keys, horizon, **_) -> Rollouts:
        tokens = torch.stack([future[int(key)] for key in keys]).unsqueeze(1)
        tokens = tokens.expand(-1, group_size, -1, -1)
        return Rollouts(tokens=tokens, logprobs=torch.zeros(tokens.shape), tokens_per_pass=1.0)

    source = source_of(dataset, model)
    clips = source.batch(range(len(source.windows)))
    _, true_tokens = model.encode(clips.float_frames())
    future = dict(zip(clips.keys.tolist(), true_tokens, strict=True))
    monkeypatch.setattr(predicting, "generate", oracle)
    found = run(dataset, model, num_samples=2)
    np.testing.assert_allclose(found.scores[CEILING]["mae"][0], expected, rtol=1e-5)
    for metric, ceiling in found.scores[CEILING].items():
        np.testing.assert_allclose(found.scores[MODEL][metric], ceiling, rtol=1e-5, err_msg=metric)


def test_a_score_is_the_mean_over_samples_not_the_best(
    run: Callable, make_dataset: Callable, make_model: Callable
) -> None:
    model, dataset = make_model(), make_dataset((12,) * 4)
    found = run(dataset, model, num_samples=5, sampling=Sampling(seed=3))
    batch = source_of(dataset, model).batch([0])
    futures = predict(model, batch, Sampling(seed=3), 5).frames
    errors = pixels.mae(futures, batch.float_frames()[:, None, 2:])[0]
    assert errors.shape == (5, 3) and errors.std(dim=0).min() > 0
    np.testing.assert_allclose(found.scores[MODEL]["mae"][0], errors.mean(dim=0), rtol=1e-5)


def test_chunks_do_not_show(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(num_samples=2)
    monkeypatch.setattr(measuring, "MAX_ROLLOUTS", 1)
    parts = run(num_samples=2)
    for subject, scores in whole.scores.items():
        for metric, values in scores.items():
            np.testing.assert_allclose(parts.scores[subject][metric], values, rtol=1e-5)


def test_shuffled_futures_follow_the_actions_of_the_partner(
    run: Callable, make_dataset: Callable, make_model: Callable
) -> None:
    model, dataset = make_model(), make_dataset((12,) * 4)
    found = run(dataset, model)
    source = source_of(dataset, model)
    starts = [i for i, window in enumerate(source.windows) if window.start == 0]
    lender = partners([source.windows[i].episode for i in starts])[0]
    batch = source.batch([starts[0]])
    told = with_future_actions(batch, source.batch([starts[lender]]).actions, 2)
    futures = predict(model, told, Sampling(), 1).frames
    errors = pixels.mae(futures, batch.float_frames()[:, None, 2:])[0, 0]
    np.testing.assert_allclose(found.scores[SHUFFLED]["mae"][0], errors, rtol=1e-5)
    assert not np.allclose(found.scores[SHUFFLED]["mae"], found.scores[MODEL]["mae"])


def test_only_actions_that_lead_to_predicted_frames_are_swapped(
    make_dataset: Callable, make_model: Callable
) -> None:
    source = source_of(make_dataset((12,) * 2), make_model())
    mine, other = source.batch([0]), source.batch([len(source.windows) - 1])
    told = with_future_actions(mine, other.actions, 2)
    assert torch.equal(told.actions[:, 0], mine.actions[:, 0])
    assert torch.equal(told.actions[:, 1:], other.actions[:, 1:])
    assert not torch.equal(mine.actions, other.actions)


def test_a_model_against_itself_has_not_changed(run: Callable, make_model: Callable) -> None:
    summary = summarise(run(base=make_model()), resamples=100, seed=0)
    for metric, change in summary["comparisons"][f"{MODEL}_vs_{BASE}"].items():
        assert change["absolute"] == {"change": 0, "low": 0, "high": 0}, metric
        assert change["verdict"] == "no change"


def test_a_change_has_the_sign_of_model_minus_base(run: Callable, make_model: Callable) -> None:
    summary = summarise(run(base=make_model(seed=1)), resamples=100, seed=0)
    model, base = (summary["subjects"][name]["mae"]["mean"] for name in (MODEL, BASE))
    change = summary["comparisons"][f"{MODEL}_vs_{BASE}"]["mae"]
    assert model != base
    assert change["absolute"]["change"] == pytest.approx(model - base, abs=1e-6)
    assert change["percent"]["change"] == pytest.approx(100 * (model - base) / base, abs=1e-3)


def test_one_window_has_nobody_to_borrow_actions_from(make_dataset, make_model) -> None:
    model = make_model()
    found = measure(model, source_of(make_dataset((12,)), model), [0], metrics=METRICS)
    assert set(found.scores) == {COPY, MODEL, CEILING}


def test_longer_horizons_are_scored_frame_by_frame(make_dataset, make_model) -> None:
    model = make_model()
    source = source_of(make_dataset((20,) * 2), model, horizon=7)
    found = measure(model, source, [0, 5], metrics=METRICS)
    assert found.scores[MODEL]["mae"].shape == (2, 7)


def test_models_of_other_windows_are_not_compared(run: Callable, make_model: Callable) -> None:
    with pytest.raises(UserError, match=r"base model's frame_skip is 1, the model's 2"):
        run(base=make_model(frame_skip=1))


def test_perceptual_networks_are_scored_too(make_dataset, make_model) -> None:
    model = make_model(size=32)
    source = source_of(make_dataset((9,) * 2, size=32, static=True), model)
    found = measure(model, source, [0], metrics=("st_lpips_alex",))
    assert not found.scores[COPY]["st_lpips_alex"].any()
    assert (found.scores[CEILING]["st_lpips_alex"] > 0).all()
