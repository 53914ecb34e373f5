from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from vidwm_kernels.dispatch import VARIABLE
from vidwm_kernels.sample_tokens import Drawn, fused, reference, sample_tokens, token_states
from vidwm_kernels.sample_tokens.counter import uniforms
from vidwm_kernels.testing import assert_close

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])
LOGITS = PROBABILITIES.log() + 5.0
FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"top_k": 60, "top_p": 0.9, "min_p": 0.02, "temperature": 1.4},
]


Draw = Callable[..., Drawn]


@pytest.fixture(params=["reference", "triton"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test that asks for it, or for `sample` or `draw`, runs with either."""
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def sample(implementation: str) -> Draw:
    return sample_tokens


@pytest.fixture
def draw(implementation: str) -> Draw:
    """Draws every row from the same logits (V,), to the last bit: the norm of a lone 1 is 1."""

    def run(logits: Tensor, names: Tensor, **settings: Any) -> Drawn:
        ones = torch.ones(*names.shape, 1)
        return sample_tokens(ones, torch.ones(1), logits[:, None], names, eps=1e-30, **settings)

    return run


def states(*shape: int) -> Tensor:
    """States of as many different tokens."""
    places = torch.arange(math.prod(shape)).view(shape)
    return token_states(0, torch.zeros(1).long(), torch.zeros(1).long(), places)[0, 0]


def model(R: int, D: int, V: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Hidden states, norm weight, head and states of R tokens; logits of deviation 2."""
    head = torch.randn(V, D) * 2 / D**0.5
    inputs = (torch.randn(R, D) * 30, torch.rand(D) + 0.5, head)
    return *(x.to(dtype) for x in inputs), states(R)


def assert_drawn_from(tokens: Tensor, expected: Tensor) -> None:
    """Counts within four standard deviations of what `expected` promises."""
    shares = torch.bincount(tokens.flatten(), minlength=len(expected)) / tokens.numel()
    error = (expected * (1 - expected) / tokens.numel()).sqrt()
    assert ((shares - expected).abs() <= 4 * error + 1e-12).all()


def assert_logprobs(drawn: Drawn, probabilities: Tensor) -> None:
    """Log-probabilities and entropy are those of `probabilities` (V,)."""
    assert_close("sample_tokens", drawn.logprobs, probabilities.log()[drawn.tokens], torch.float32)
    if drawn.entropy is not None:
        entropy = torch.special.entr(probabilities).sum().expand_as(drawn.entropy)
        assert_close("sample_tokens", drawn.entropy, entropy, torch.float32)


def test_draws_each_id_with_its_probability(draw: Draw) -> None:
    drawn = draw(LOGITS, states(2000), with_entropy=True)
    assert drawn.tokens.dtype == torch.int64
    assert_drawn_from(drawn.tokens, PROBABILITIES)
    assert_logprobs(drawn, PROBABILITIES)


def test_draws_from_a_large_vocabulary_with_a_long_tail(implementation: str, draw: Draw) -> None:
    R = 20000 if implementation == "reference" else 500
    probabilities = (-1.2 * torch.arange(1.0, 1001.0).log()).softmax(dim=0)
    tokens = draw(probabilities.log(), states(R)).tokens
    expected = torch.cat([probabilities[:50], probabilities[50:].view(10, 95).sum(dim=1)])
    groups = torch.where(tokens < 50, tokens, 50 + (tokens - 50) // 95)
    assert_drawn_from(groups, expected)


def test_norm_and_head_come_before_the_draw(sample: Draw) -> None:
    hidden, weight, head, names = model(40, 24, 9)
    drawn = sample(hidden, weight, head, names, eps=0.5)
    scale = (hidden.double().square().mean(-1, keepdim=True) + 0.5).rsqrt()
    logits = (hidden.double() * scale * weight.double()) @ head.double().T
    expected = logits.log_softmax(-1).gather(-1, drawn.tokens[:, None])[:, 0]
    assert_close("sample_tokens", drawn.logprobs, expected, torch.float32)
    race = logits.softmax(-1) / -uniforms(names, 0, 9).double().log()
    assert torch.equal(drawn.tokens, race.argmax(-1))


def test_never_draws_illegal_ids_and_ignores_their_logits(draw: Draw) -> None:
    logits = torch.tensor([50.0, *LOGITS.tolist(), 60.0])
    legal = torch.tensor([False, True, True, True, True, False])
    drawn = draw(logits, states(800), legal=legal, with_entropy=True)
    expected = torch.cat([torch.zeros(1), PROBABILITIES, torch.zeros(1)])
    assert_drawn_from(drawn.tokens, expected)
    assert_logprobs(drawn, expected)
    logits[[0, 5]] = float("nan")
    assert torch.equal(draw(logits, states(800), legal=legal).tokens, drawn.tokens)


def test_a_mask_per_row_equals_the_mask_of_that_row(draw: Draw) -> None:
    logits, names = torch.randn(200), states(5, 4)
    legal = torch.rand(5, 4, 200) < 0.1
    legal[..., 0] = True
    for settings in FILTERS:
        drawn = draw(logits, names, legal=legal, **settings)
        assert legal.gather(-1, drawn.tokens[..., None]).all()
        alone = draw(logits, names[2, 3], legal=legal[2, 3], **settings)
        assert alone.tokens == drawn.tokens[2, 3]
        assert_close("sample_tokens", alone.logprobs, drawn.logprobs[2, 3], torch.float32)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("settings", FILTERS)
def test_a_row_that_cannot_be_drawn_from_is_marked_and_spoils_no_other(
    settings: dict[str, Any], implementation: str, sample: Draw
) -> None:
    hidden, weight, head, names = model(5, 6, 150)
    legal = torch.ones(5, 150, dtype=torch.bool)
    clean = sample(hidden, weight, head, names, legal=legal, with_entropy=True, **settings)
    legal[1], hidden[3, 2] = False, float("nan")
    # Past the check of the front door, which looks at masks on CPUs only.
    inside = {"reference": reference, "triton": fused}[implementation].sample_tokens
    everything = {"eps": 1e-6, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    drawn = inside(
        hidden, weight, head, names, legal=legal, with_entropy=True, **(everything | settings)
    )
    bad, good = [1, 3], [0, 2, 4]
    assert drawn.tokens[bad].tolist() == [-1, -1]
    assert drawn.logprobs[bad].isnan().all() and drawn.entropy[bad].isnan().all()
    for before, after in zip(clean, drawn, strict=True):
        assert torch.equal(before[good], after[good])


def test_temperature_divides_the_logits(draw: Draw) -> None:
    drawn = draw(LOGITS, states(1000), temperature=0.5, with_entropy=True)
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    assert_drawn_from(drawn.tokens, expected)
    assert_logprobs(drawn, expected)


def test_temperature_zero_takes_the_likeliest_and_reports_the_plain_softmax(draw: Draw) -> None:
    drawn = draw(LOGITS, states(3), temperature=0.0, top_k=1, top_p=0.1, with_entropy=True)
    assert drawn.tokens.tolist() == [1, 1, 1]
    assert_logprobs(drawn, PROBABILITIES)


def test_temperature_zero_takes_the_lowest_id_of_equals(draw: Draw) -> None:
    logits = torch.zeros(300)
    logits[[77, 140, 299]] = 2.0
    assert draw(logits, states(2), temperature=0.0).tokens.tolist() == [77, 77]
    assert draw(logits, states(2), temperature=0.0, legal=torch.arange(300) > 77).tokens[0] == 140


def test_top_k_renormalises_over_the_k_likeliest(draw: Draw) -> None:
    drawn = draw(LOGITS, states(200), top_k=2, with_entropy=True)
    expected = torch.tensor([0.0, 4 / 7, 0.0, 3 / 7])
    assert_drawn_from(drawn.tokens, expected)
    assert_logprobs(drawn, expected)


def test_top_k_keeps_ties_at_the_border_and_may_exceed_the_legal_ids(draw: Draw) -> None:
    tied = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert set(draw(tied, states(50), top_k=2).tokens.tolist()) == {0, 1, 2, 3}
    many = draw(LOGITS, states(50), top_k=9).tokens
    assert torch.equal(many, draw(LOGITS, states(50)).tokens)
    legal = torch.tensor([True, False, True, False])
    two = draw(LOGITS, states(50), top_k=3, legal=legal).tokens
    assert torch.equal(two, draw(LOGITS, states(50), legal=legal).tokens)


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.01, [1]), (0.39, [1]), (0.41, [1, 3]), (0.71, [1, 2, 3])]
)
def test_top_p_keeps_the_fewest_ids_that_hold_the_mass(
    mass: float, kept: list[int], draw: Draw
) -> None:
    drawn = draw(LOGITS, states(99), top_p=mass, with_entropy=True)
    assert sorted(set(drawn.tokens.tolist())) == kept
    expected = torch.zeros(4)
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    assert_logprobs(drawn, expected)


def test_top_p_keeps_all_of_equal_ids(draw: Draw) -> None:
    tokens = draw(torch.tensor([0.0, 0.0, 0.0, -3.0]), states(50), top_p=0.3).tokens
    assert set(tokens.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("share", "kept"), [(0.2, 4), (0.3, 3), (0.7, 2), (1.0, 1)])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(
    share: float, kept: int, draw: Draw
) -> None:
    drawn = draw(LOGITS, states(99), min_p=share, with_entropy=True)
    expected = torch.zeros(4)
    ids = [1, 3, 2, 0][:kept]
    expected[ids] = PROBABILITIES[ids] / PROBABILITIES[ids].sum()
    assert sorted(set(drawn.tokens.tolist())) == sorted(ids)
    assert_logprobs(drawn, expected)


@pytest.mark.parametrize("offset", [-300.0, 0.0, 300.0])
def test_filters_in_turn_equal_their_definition(offset: float, draw: Draw) -> None:
    # Few different logits: ties at every border, and masses far from every border.
    logits = torch.randint(-4, 4, (150,)) * 0.5 + offset
    settings = product((0, 20), (1.0, 0.63), (0.0, 0.11))
    for top_k, top_p, min_p in settings:
        drawn = draw(logits, states(15), top_k=top_k, top_p=top_p, min_p=min_p)
        kept = {float(x) for x in logits}
        if top_k:
            kept = {x for x in kept if x >= logits.sort(descending=True).values[top_k - 1]}
        mass = {x: (logits == x).sum().item() * math.exp(x - offset) for x in kept}
        borders = [
            x for x in kept if sum(mass[y] for y in kept if y >= x) >= top_p * sum(mass.values())
        ]
        if top_p < 1:
            kept = {x for x in kept if x >= max(borders)}
        kept = {x for x in kept if math.exp(x - max(kept)) >= min_p}
        probabilities = torch.tensor([math.exp(x - offset) * (x in kept) for x in logits.tolist()])
        assert_logprobs(drawn, probabilities / probabilities.sum())


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_any_number_of_rows(shape: tuple[int, ...], sample: Draw) -> None:
    hidden, weight, head, _ = model(1, 8, 5)
    drawn = sample(hidden[0].expand(*shape, 8), weight, head, states(*shape), with_entropy=True)
    assert drawn.tokens.shape == drawn.logprobs.shape == drawn.entropy.shape == shape
    assert (drawn.tokens >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 31, 1001])
def test_logprobs_equal_the_softmax_for_every_shape_and_dtype(
    size: int, dtype: torch.dtype, draw: Draw
) -> None:
    logits = torch.randn(size) * 20
    drawn = draw(logits.to(dtype).float(), states(3, 5))
    assert drawn.tokens.shape == drawn.logprobs.shape == (3, 5)
    expected = logits.to(dtype).double().log_softmax(-1)[drawn.tokens]
    assert_close("sample_tokens", drawn.logprobs, expected, torch.float32)


def test_extreme_logits_leave_one_id(draw: Draw) -> None:
    logits = torch.full((300,), -1e4)
    logits[130] = 1e4
    for settings in FILTERS:
        drawn = draw(logits, states(9), with_entropy=True, **settings)
        assert (drawn.tokens == 130).all() and (drawn.logprobs == 0).all()
        assert (drawn.entropy == 0).all()


def test_rows_are_independent_of_each_other(sample: Draw) -> None:
    hidden, weight, head, names = model(16, 30, 140)
    settings: dict[str, Any] = {"top_k": 50, "top_p": 0.9, "min_p": 0.01}
    together = sample(hidden, weight, head, names, **settings)
    for i in (0, 6, 15):
        alone = sample(hidden[i], weight, head, names[i], **settings)
        assert alone.tokens == together.tokens[i]
        assert_close("sample_tokens", alone.logprobs, together.logprobs[i], torch.float32)


def test_tokens_hardly_depend_on_the_last_bits_of_the_logits() -> None:
    logits = torch.randn(2000, 1000) * 2
    noisy = logits + (torch.rand_like(logits) - 0.5) * 2e-3
    first, second = (reference.sample_from_logits(x, states(2000)).tokens for x in (logits, noisy))
    distance = (logits.softmax(-1) - noisy.softmax(-1)).abs().sum(-1).mean() / 2
    # A race changes at most twice the total variation distance, one token here; a CDF changed 41.
    assert 2 * distance * 2000 < 1.1
    assert (first != second).sum() <= 2


def test_autocast_changes_nothing(sample: Draw) -> None:
    inputs = model(6, 64, 90)
    expected = sample(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample(*inputs)
    assert torch.equal(found.logprobs, expected.logprobs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or at least"),
        ({"temperature": 1e-9}, "temperature must be 0 or at least"),
        ({"temperature": float("inf")}, "temperature must be 0 or at least"),
        ({"top_k": -1}, "need eps >= 0, top_k >= 0"),
        ({"top_p": 0.0}, "0 < top_p <= 1"),
        ({"top_p": 1.1}, "0 < top_p <= 1"),
        ({"min_p": -0.1}, "0 <= min_p <= 1"),
        ({"min_p": float("nan")}, "0 <= min_p <= 1"),
        ({"norm_weight": torch.ones(3)}, r"norm_weight \(D,\) and head \(V, D\)"),
        ({"head": torch.zeros(0, 6)}, "none of them empty"),
        ({"head": torch.zeros(4, 6).double()}, "must be float32, float16 or bfloat16"),
        ({"states": torch.zeros(1).long()}, r"states must be \(2,\) int64"),
        ({"states": torch.zeros(2)}, r"states must be \(2,\) int64"),
        ({"legal": torch.ones(2, 3).bool()}, r"legal must be \(4,\) or \(2, 4\) bool"),
        ({"legal": torch.ones(4)}, r"legal must be \(4,\) or \(2, 4\) bool"),
        ({"legal": torch.tensor([[True] * 4, [False] * 4])}, "every row at least one id"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(wrong: dict[str, Any], message: str) -> None:
    right = {
        "hidden": torch.zeros(2, 6),
        "norm_weight": torch.ones(6),
        "head": torch.zeros(4, 6),
        "states": states(2),
    }
    sample_tokens(**right)
    with pytest.raises(ValueError, match=message):
        sample_tokens(**(right | wrong))


@pytest.mark.usefixtures("implementation")
def test_a_gradient_is_refused_and_not_lost() -> None:
    hidden = torch.randn(2, 8, requires_grad=True)
    with pytest.raises(RuntimeError):
        sample_tokens(hidden, torch.ones(8), torch.randn(5, 8), states(2))
