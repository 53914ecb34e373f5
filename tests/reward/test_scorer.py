"""The scorer against one comparison at a time, and the work it must not repeat."""

from __future__ import annotations

import math
import weakref

import pytest
import torch

from vidwm.errors import UserError
from vidwm.reward import pixels
from vidwm.reward.feature_pass import FeaturePass
from vidwm.reward.live_memory import peak_bytes
from vidwm.reward.perceptual import PerceptualNet, load_perceptual
from vidwm.reward.scorer import Scorer

B, G, T, N, SIZE = 2, 3, 4, 5, 32
PALETTE = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def decode(tokens: torch.Tensor) -> torch.Tensor:
    """Frames that depend on every token; they leave [0, 1], as a raw decoder's do."""
    weights = torch.arange(1.0, tokens.shape[1] + 1)
    return torch.einsum("mn,mnchw->mchw", weights.expand(tokens.shape), PALETTE[tokens]) / 9


class CountingDecoder:
    """`decode`, remembering the rows it was asked for and how many results are still alive."""

    def __init__(self) -> None:
        self.calls: list[torch.Tensor] = []
        self.results: list[weakref.ref] = []
        self.most_alive = 0

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls.append(tokens)
        frames = decode(tokens)
        self.results.append(weakref.ref(frames))
        self.most_alive = max(self.most_alive, sum(r() is not None for r in self.results))
        return frames


@pytest.fixture
def true() -> torch.Tensor:
    return torch.rand(B, T, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens() -> torch.Tensor:
    """Distinct rows but for these: a frame repeated within, across rollouts, steps and contexts."""
    tokens = torch.randint(0, 16, (B, G, T, N), generator=torch.Generator().manual_seed(2))
    tokens[0, 1, 2] = tokens[0, 0, 2]  # same step of another rollout: one comparison
    tokens[0, 2, 3] = tokens[0, 0, 2]  # another step: decoded once, compared twice
    tokens[1, 2, 0] = tokens[0, 0, 2]  # another context
    return tokens


DISTINCT = B * G * T - 3


@pytest.fixture
def feature_frames(monkeypatch) -> list[torch.Tensor]:
    """Every frame whose perceptual features are computed."""
    seen: list[torch.Tensor] = []
    features = PerceptualNet.features

    def counted(self, frames):
        seen.extend(frames.clone())
        return features(self, frames)

    monkeypatch.setattr(PerceptualNet, "features", counted)
    return seen


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_equals_one_comparison_at_a_time(tokens, true, chunk):
    scores = Scorer(["lpips", "mae", "mse", "psnr", "ssim"], chunk).score(
        tokens, true, decode=decode
    )
    net = load_perceptual("st_lpips_alex")
    metrics = {"mae": pixels.mae, "mse": pixels.mse, "psnr": pixels.psnr, "ssim": pixels.ssim}
    metrics["lpips"] = lambda pred, true: net(pred[None], true[None])[0]
    assert set(scores) == set(metrics)
    for name, metric in metrics.items():
        expected = torch.empty(B, G, T)
        for b, g, t in torch.cartesian_prod(*map(torch.arange, (B, G, T))).tolist():
            pred = decode(tokens[b, g, t][None])[0].clamp(0, 1)
            with torch.inference_mode():
                expected[b, g, t] = metric(pred, true[b, t])
        assert scores[name].dtype == torch.float32
        torch.testing.assert_close(scores[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [4, 64])
def test_identical_token_frames_are_decoded_once(tokens, true, chunk):
    decoder = CountingDecoder()
    Scorer(["mae"], chunk).score(tokens, true, decode=decoder)
    rows = torch.cat(decoder.calls)
    assert len(rows) == DISTINCT == len(rows.unique(dim=0))
    assert max(map(len, decoder.calls)) <= chunk


def test_only_one_chunk_of_pixels_is_alive(tokens, true):
    decoder = CountingDecoder()
    Scorer(["mae"], chunk=3).score(tokens, true, decode=decoder)
    assert len(decoder.calls) == DISTINCT / 3
    assert decoder.most_alive == 1


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_true_features_are_computed_once_per_context(tokens, true, feature_frames, chunk):
    scorer = Scorer(["lpips", "st_lpips_alex"], chunk)
    scorer.score(tokens, true, decode=decode)
    for frame in true.flatten(0, 1):
        assert sum(torch.equal(frame, seen) for seen in feature_frames) == 1
    assert len(feature_frames) == B * T + DISTINCT


def test_true_features_are_dropped_after_their_last_use(monkeypatch):
    contexts, kept = 6, []
    fetch = FeaturePass._fetch

    def watched(self, missing, now):
        fetch(self, missing, now)
        kept.append(len(self.true_maps[0]))

    monkeypatch.setattr(FeaturePass, "_fetch", watched)
    tokens = torch.randint(0, 16, (contexts, G, T, N))
    true = torch.rand(contexts, T, 3, SIZE, SIZE)
    Scorer(["lpips"], chunk=T).score(tokens, true, decode=decode)
    assert len(kept) == contexts and max(kept) <= 2 * T


def test_rollouts_that_all_agree_cost_one_decoded_frame(true, feature_frames):
    decoder = CountingDecoder()
    scores = Scorer(["lpips"], chunk=2).score(torch.ones(B, G, T, N).long(), true, decode=decoder)
    assert sum(map(len, decoder.calls)) == 1
    assert len(feature_frames) == 1 + B * T
    assert torch.equal(scores["lpips"], scores["lpips"][:, :1].expand(B, G, T))


def test_score_frames_equals_score(tokens, true):
    scorer = Scorer(["lpips", "mae"], chunk=5)
    pred = decode(tokens.flatten(0, 2)).clamp(0, 1).unflatten(0, (B, G, T))
    by_tokens, by_frames = (
        scorer.score(tokens, true, decode=decode),
        scorer.score_frames(pred, true),
    )
    for name in ("lpips", "mae"):
        torch.testing.assert_close(by_frames[name], by_tokens[name])


def test_perfect_predictions_score_perfectly(true):
    scores = Scorer(["lpips", "mae", "ssim"]).score_frames(true[:, None], true)
    assert scores["lpips"].abs().max() == 0 == scores["mae"].max()
    torch.testing.assert_close(scores["ssim"], torch.ones(B, 1, T))


def test_scores_do_not_depend_on_autocast_and_can_enter_a_loss(tokens, true):
    scorer = Scorer(["lpips", "ssim"])
    expected = scorer.score(tokens, true, decode=decode)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer.score(tokens, true, decode=decode)
    for name, value in scores.items():
        assert torch.equal(value, expected[name])
        ratio = torch.ones(B, G, T, requires_grad=True)
        (ratio * value).sum().backward()
        assert torch.equal(ratio.grad, value)


def test_true_frames_out_of_range_or_shape_are_refused(tokens, true):
    scorer = Scorer(["mae"])
    with pytest.raises(ValueError, match=r"true must lie in \[0, 1\], got values from"):
        scorer.score(tokens, true * 255, decode=decode)
    with pytest.raises(ValueError, match=r"true must be \(2, 4, 3, H, W\)"):
        scorer.score(tokens, true[:, :3], decode=decode)
    with pytest.raises(ValueError, match="pred must lie"):
        scorer.score_frames(torch.full((B, G, T, 3, SIZE, SIZE), math.nan), true)


def test_constructor_refuses():
    with pytest.raises(UserError, match="did you mean 'mae'"):
        Scorer(["maee"])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        Scorer(["mae"], chunk=0)


@pytest.mark.parametrize("grid", [(4, 4), (2, 8)])
def test_maps_have_the_metrics_as_their_means(tokens, true, grid):
    names = ("mae", "mse", "st_lpips_alex")
    whole = Scorer(names).score(tokens, true, decode=decode)
    maps = Scorer(names, grid=grid).score(tokens, true, decode=decode)
    for name in names:
        assert maps[name].shape == (B, G, T, *grid)
        torch.testing.assert_close(maps[name].mean(dim=(3, 4)), whole[name], rtol=1e-4, atol=1e-6)


def test_a_map_says_where_the_error_is():
    true = torch.full((1, 1, 3, SIZE, SIZE), 0.5)
    pred = true[:, None].clone()
    pred[..., :8, 8:16] = 0.9
    scorer = Scorer(("mae", "mse", "st_lpips_alex"), grid=(4, 4))
    maps = {name: value[0, 0, 0] for name, value in scorer.score_frames(pred, true).items()}
    assert maps["mae"][0, 1] == pytest.approx(0.4) and maps["mae"].sum() == maps["mae"][0, 1]
    assert maps["mse"][0, 1] == pytest.approx(0.16) and maps["mse"].sum() == maps["mse"][0, 1]
    # Deep features look far: near the error the distance is large, at the other end small.
    perceptual = maps["st_lpips_alex"]
    assert perceptual[:2, :3].min() > 1.5 * perceptual[3].max()


def test_a_metric_without_a_map_is_refused():
    with pytest.raises(UserError, match="ssim is no mean over places"):
        Scorer(("mae", "ssim"), grid=(4, 4))


def random_rollouts(contexts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """tokens (contexts, 4, 2, 4), no frame twice, and true frames."""
    numbers = torch.randperm(10**4)[: contexts * 8].view(contexts, 4, 2, 1)
    return numbers // 10 ** torch.arange(4) % 10, torch.rand(contexts, 2, 3, 64, 64)


def painted(tokens: torch.Tensor) -> torch.Tensor:
    """A decoder: every token is a shade of a quarter of the frame."""
    return (
        (tokens.view(-1, 1, 2, 2) / 10)
        .expand(-1, 3, -1, -1)
        .repeat_interleave(32, 2)
        .repeat_interleave(32, 3)
    )


def test_memory_is_bounded_by_the_budget_whatever_there_is_to_score() -> None:
    peaks = []
    for contexts in (8, 64):
        scorer = Scorer(["lpips", "mae", "ssim"], memory_gb=0.05)
        tokens, true = random_rollouts(contexts)
        peaks.append(peak_bytes(lambda s=scorer, t=tokens, x=true: s.score(t, x, decode=painted)))
    assert max(peaks) < 0.05e9 and peaks[1] < 1.1 * peaks[0]


def test_budgets_change_the_number_of_frames_at_a_time_and_nothing_else() -> None:
    tokens, true = random_rollouts(3)
    found, sizes = [], []
    for memory_gb in (1e-6, 0.02, 1.0):
        calls: list[int] = []
        decode = lambda rows, calls=calls: calls.append(len(rows)) or painted(rows)  # noqa: E731
        found.append(
            Scorer(["lpips", "mae"], memory_gb=memory_gb).score(tokens, true, decode=decode)
        )
        sizes.append(max(calls))
    assert sizes[0] == 1 < sizes[1] < sizes[2] == 24
    for scores in found[1:]:
        for name, value in scores.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-5, atol=1e-6)
