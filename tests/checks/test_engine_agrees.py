"""A model in its engine against its own files: figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from sw_audit.checks.judging import judge_result
from sw_audit.record.arm import BASELINE, DEQUANTIZED, Arm
from sw_audit.record.engine import EngineIdentity, EngineResult, RenderedChat, TokenizedText
from sw_audit.record.measurement import Agreement, Measurement, TokenLoss
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status, Verdict
from tests.support.evidence import make_policy, make_record

WINDOWS, TOKENS = 8, 50
CUT = TokenizedText(text="a b", tokens=2, engine_tokens=2)
CHAT = RenderedChat(expected="<user>hi<answer>", found="<user>hi<answer>")


def make_result(
    *,
    ours: Sequence[float | None] = (100.0, 101.0, 99.0, 100.0, 100.0, 102.0, 98.0, 100.0),
    theirs: Sequence[float | None] = (100.0, 101.0, 99.0, 100.0, 100.0, 102.0, 98.0, 100.0),
    divergence: float | None = 0.2,
    same: int = 49,
    tokenized: tuple[TokenizedText, ...] = (CUT,),
    chats: tuple[RenderedChat, ...] = (CHAT,),
    top_tokens: int | None = None,
) -> ModelResult:
    result = make_record(windows=WINDOWS).results[0]
    counts = (TOKENS,) * WINDOWS
    signature = result.protocol.signature

    def measure(arm: Arm, nats: Sequence[float | None], spread: float | None, top: int) -> Measurement:
        # Windows differ a little, or an interval would have no width.
        sums = tuple(None if spread is None else spread * (0.9 + 0.02 * window) for window in range(WINDOWS))
        agreement = Agreement(divergence=sums, same_top=(top,) * WINDOWS, tokens=counts, top_tokens=top_tokens)
        loss = TokenLoss(nats=tuple(nats), tokens=counts)
        return Measurement(
            model=result.id, arm=arm, protocol=signature, loss=loss, agreement=agreement, peaks=(), seconds=0.0
        )

    measured = (
        measure(BASELINE, ours, 0.0, TOKENS),
        measure(Arm(purpose=DEQUANTIZED), theirs, divergence, same),
    )
    engine = EngineResult(
        identity=EngineIdentity(engine="llama.cpp", version="b1", vocabulary=100),
        tokenized=tokenized,
        chats=chats,
    )
    return result.model_copy(update={"measurements": measured, "engine": engine, "looks": (), "verdicts": ()})


def judge(result: ModelResult) -> Verdict:
    [verdict] = judge_result(result, make_policy(), ["engine-agrees"])
    return verdict


def test_an_engine_that_computes_what_the_files_say_passes() -> None:
    verdict = judge(make_result())
    assert verdict.status is Status.PASS
    figures = {finding.label: finding.observed for finding in verdict.findings}
    # 0.2 nats over 50 tokens, times the mean of 0.9, 0.92 to 1.04; 49 of 50 tokens.
    assert figures["Mean KLD"] == pytest.approx(0.2 / 50 * 0.97)
    assert figures["Same likeliest token"] == 49 / 50
    assert figures["Perplexity"] == 1.0
    assert figures["Tokens"] == figures["Chat template"] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perplexity_that_is_another_fails_whichever_is_larger(sign: int) -> None:
    theirs = [100.0 + sign * (10.0 + window / 100) for window in range(WINDOWS)]
    verdict = judge(make_result(ours=(100.0,) * WINDOWS, theirs=theirs))
    assert verdict.status is Status.FAIL
    assert "Perplexity" in verdict.because
    assert verdict.observed == pytest.approx(math.exp((10.0 + 0.035) / TOKENS))


def test_a_divergence_or_another_likeliest_token_fails() -> None:
    far = judge(make_result(divergence=5.0))
    assert (far.status, far.quantity) == (Status.FAIL, "mean KL divergence, nats per token")
    other = judge(make_result(same=30))
    assert (other.status, other.observed, other.side) == (Status.FAIL, 30 / 50, "at least")


def test_what_is_not_finite_in_the_engine_fails_and_in_transformers_tells_nothing() -> None:
    broken = (None, *(100.0,) * (WINDOWS - 1))
    assert judge(make_result(ours=broken)).status is Status.FAIL
    assert judge(make_result(theirs=broken)).status is Status.INCONCLUSIVE


def test_another_tokenizer_and_another_template_fail_and_say_where() -> None:
    other = CUT.model_copy(update={"first_difference": 1, "expected": (7, 8), "found": (9,)})
    verdict = judge(make_result(tokenized=(CUT, other)))
    assert verdict.status is Status.FAIL
    assert "1 of 2 texts are cut otherwise" in verdict.because
    assert "from token 1 on: [9] and not [7, 8]" in verdict.because
    assert "tokenizer.ggml.pre" in (verdict.remedy or "")
    chat = CHAT.model_copy(update={"found": "<user>hi"})
    verdict = judge(make_result(chats=(chat,)))
    assert verdict.status is Status.FAIL
    assert "'<user>hi' and not '<user>hi<answer>'" in verdict.because


def test_likeliest_tokens_alone_are_told_with_their_number() -> None:
    verdict = judge(make_result(top_tokens=20))
    [divergence] = [one for one in verdict.findings if one.label == "Mean KLD"]
    assert "of the 20 likeliest tokens, all others as one" in divergence.because


def test_an_engine_that_was_not_measured_is_inconclusive_and_none_is_skipped() -> None:
    result = make_result()
    bare = result.model_copy(update={"measurements": result.measurements[:1]})
    assert judge(bare).status is Status.INCONCLUSIVE
    none = judge(result.model_copy(update={"engine": None}))
    assert none.status is Status.SKIPPED
    assert "It runs in transformers" in none.because


def test_what_must_change_something_inside_is_skipped_in_an_engine() -> None:
    [verdict] = judge_result(make_result(), make_policy(), ["prune-collapses"])
    assert verdict.status is Status.SKIPPED
    assert "llama.cpp runs the model as it is" in verdict.because
