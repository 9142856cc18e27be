"""From what engines expect to sums per window: by hand, by law, and beside the layer-by-layer engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines.engine import Distributions, Engine, Piece, cut_pieces
from sw_audit.engines.reading import diverge, measure_in_engines
from sw_audit.engines.transformers import Transformers
from sw_audit.measure.arms import measure_arms
from sw_audit.measure.generation import GreedyContinuation
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.arm import BASELINE, DEQUANTIZED
from sw_audit.record.engine import EngineIdentity
from sw_audit.specimen.shipped import specimen_path

BASE = BASELINE.purpose


def of(*rows: Sequence[float], targets: Sequence[int]) -> Distributions:
    """Whole distributions from probabilities."""
    return Distributions.of_logits(torch.tensor(rows).log(), torch.tensor(targets))


def keep_top(whole: Distributions, count: int) -> Distributions:
    log_p, token_ids = whole.log_probabilities.topk(count)
    return Distributions(log_p, whole.targets, token_ids)


class Told(Engine):
    """An engine that tells the likeliest tokens of another alone."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine, self._count = engine, count

    @property
    def identity(self) -> EngineIdentity:
        return self._engine.identity.model_copy(update={"top_tokens": self._count})

    def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
        return (keep_top(one, self._count) for one in self._engine.score(windows, pieces))

    def continue_prompts(self, *_: object, **__: object) -> tuple[GreedyContinuation, ...]:
        return ()


@pytest.fixture(scope="module")
def specimen() -> Transformers:
    return Transformers(open_checkpoint(ModelPolicy(source=str(specimen_path()))))


def make_windows(rows: int = 3, length: int = 40) -> Windows:
    token_ids = torch.randint(3, 200, (rows, length), generator=torch.Generator().manual_seed(7))
    return Windows(token_ids, torch.tensor([1, *[length // 2] * (rows - 1)]))


def test_a_divergence_of_whole_distributions_is_as_by_hand() -> None:
    reference, own = of([0.5, 0.25, 0.25], targets=[0]), of([0.25, 0.5, 0.25], targets=[0])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert diverge(reference, own, torch.tensor([0])).tolist() == pytest.approx([expected], rel=1e-6)


def test_of_the_likeliest_alone_all_others_are_one_class() -> None:
    # One tells tokens 0 and 1, the other 1 and 0; token 3 follows, which both tell. Tokens 2 and 4 are one class.
    reference = keep_top(of([0.4, 0.3, 0.1, 0.1, 0.1], targets=[3]), 2)
    own = keep_top(of([0.3, 0.5, 0.05, 0.1, 0.05], targets=[3]), 2)
    expected = 0.4 * math.log(0.4 / 0.3) + 0.3 * math.log(0.3 / 0.5) + 0.2 * math.log(0.2 / 0.1)
    assert diverge(reference, own, torch.tensor([3])).tolist() == pytest.approx([expected], rel=1e-5)


def test_what_only_one_tells_is_in_the_class_of_all_others() -> None:
    reference = of([0.4, 0.3, 0.2, 0.1], targets=[0])
    own = keep_top(of([0.3, 0.4, 0.1, 0.2], targets=[0]), 1)  # token 1, and token 0 that follows
    expected = 0.4 * math.log(0.4 / 0.3) + 0.3 * math.log(0.3 / 0.4) + 0.3 * math.log(0.3 / 0.3)
    assert diverge(reference, own, torch.tensor([0])).tolist() == pytest.approx([expected], rel=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_likeliest_tokens_never_tell_more_than_all(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 12, (5,), generator=generator)
    whole = [Distributions.of_logits(torch.randn(5, 12, generator=generator), targets) for _ in range(2)]
    least = diverge(*(keep_top(one, count) for one in whole), targets)
    most = diverge(*whole, targets)
    # The rest of float32 probabilities is what their sum leaves of 1: off by up to 1.3e-5 in 12,000 tries.
    assert (least <= most + 1e-4).all()
    assert (least >= -1e-6).all()
    if count == 12:
        assert least.tolist() == pytest.approx(most.tolist(), abs=1e-6)


def test_what_is_not_finite_stays_so() -> None:
    reference = of([0.5, 0.5], targets=[0])
    broken = Distributions(torch.full((1, 2), math.nan), torch.tensor([math.nan]))
    for pair in ((reference, broken), (broken, reference)):
        assert diverge(*pair, torch.tensor([0])).isnan().all()
    assert broken.top.tolist() == [-1]
    untold = Distributions(torch.tensor([[0.0]]), torch.tensor([math.nan]), torch.tensor([[1]]))
    assert diverge(reference, untold, torch.tensor([0])).isnan().all()


@given(st.integers(1, 5), st.integers(2, 30), st.integers(1, 1 << 24))
def test_pieces_cover_every_scored_place_once_in_order(rows: int, length: int, vocabulary: int) -> None:
    windows = Windows(
        torch.zeros(rows, length, dtype=torch.long), torch.tensor([1 + row % (length - 1) for row in range(rows)])
    )
    pieces = cut_pieces(windows, vocabulary)
    places = [(piece.window, place) for piece in pieces for place in range(piece.first, piece.end)]
    assert places == [
        (row, place) for row in range(rows) for place in range(int(windows.first_scored[row]) - 1, length - 1)
    ]
    assert all((piece.end - piece.first) * vocabulary <= max(vocabulary, 1 << 24) for piece in pieces)


def test_transformers_as_an_engine_gives_the_figures_of_the_layerwise_engine(specimen: Transformers) -> None:
    windows, checkpoint = make_windows(), specimen._checkpoint
    stop_words = torch.tensor([5, 6, 7])
    [expected] = measure_arms(checkpoint, [BASELINE], windows, protocol="p", stop_words=stop_words)
    measured = measure_in_engines(
        {BASE: (specimen, BASE), DEQUANTIZED: (Transformers(checkpoint), BASE)},
        windows, model="m", protocol="p", stop_words=stop_words,
    )  # fmt: skip
    for one in measured.values():
        assert one.loss.nats == pytest.approx(expected.loss.nats, rel=1e-5)
        assert one.loss.tokens == expected.loss.tokens == one.agreement.tokens
        assert one.stop_words is not None
        assert one.stop_words.mass == pytest.approx(expected.stop_words and expected.stop_words.mass, rel=1e-4)
    same = measured[DEQUANTIZED].agreement
    assert same.top1 == 1.0
    assert same.mean_divergence == pytest.approx(0.0, abs=1e-9)
    assert len(same.token_divergence) == sum(same.tokens)


def test_what_is_not_finite_has_no_likeliest_token_and_no_figure(specimen: Transformers) -> None:
    class Broken(Told):
        def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
            for one in specimen.score(windows, pieces):
                yield Distributions(one.log_probabilities * math.nan, one.targets * math.nan)

    engine = Broken(specimen, 1)
    measured = measure_in_engines(
        {BASE: (engine, BASE), DEQUANTIZED: (specimen, BASE)}, make_windows(), model="m", protocol="p"
    )
    assert measured[BASE].loss.mean_nats is None
    assert sum(measured[BASE].agreement.same_top) == sum(measured[DEQUANTIZED].agreement.same_top) == 0
    assert measured[DEQUANTIZED].agreement.mean_divergence is None


def test_an_engine_with_several_purposes_runs_once(specimen: Transformers) -> None:
    calls: list[int] = []

    class Counting(Told):
        def score(self, windows: Windows, pieces: Sequence[Piece]) -> Iterator[Distributions]:
            calls.append(len(pieces))
            return specimen.score(windows, pieces)

    engine = Counting(specimen, 1)
    measured = measure_in_engines(
        {BASE: (engine, BASE), DEQUANTIZED: (engine, BASE)}, make_windows(), model="m", protocol="p"
    )
    assert len(calls) == 1
    assert [*measured] == [BASE, DEQUANTIZED]


def test_of_the_likeliest_alone_stop_words_are_not_known_and_the_number_is_told(specimen: Transformers) -> None:
    measured = measure_in_engines(
        {BASE: (Told(specimen, 5), BASE), DEQUANTIZED: (specimen, BASE)},
        make_windows(), model="m", protocol="p", stop_words=torch.tensor([3]),
    )  # fmt: skip
    assert measured[BASE].stop_words is None
    assert measured[DEQUANTIZED].agreement.top_tokens == 5
    assert measured[DEQUANTIZED].agreement.mean_divergence == pytest.approx(0.0, abs=1e-6)
    whole = measure_in_engines({BASE: (specimen, BASE)}, make_windows(), model="m", protocol="p")
    assert measured[BASE].loss == whole[BASE].loss
