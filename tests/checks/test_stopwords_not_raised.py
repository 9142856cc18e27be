from __future__ import annotations

import pytest
from support.descent import judge_descent, make_descent_evidence, make_text

from sw_audit.record.arm import DESCENDANT, PARENT
from sw_audit.record.checkpoint import QuantizationReport
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status

CHECK = "perplexity-ratio"
HARMED = {DESCENDANT.name: 8.0}


@pytest.mark.parametrize(("mass", "status"), [(0.5, Status.PASS), (0.9, Status.FAIL), (0.05, Status.PASS)])
def test_probability_that_drifts_to_stop_words_fails(mass: float, status: Status) -> None:
    text = make_text({DESCENDANT.name: 1.01})
    parent = text.measured(PARENT.name)
    assert parent is not None
    assert parent.stop_words is not None
    raised = tuple(None if one is None else one * mass / 0.4 for one in parent.stop_words.mass)
    shifted = parent.stop_words.model_copy(update={"mass": raised})
    verdict = judge_descent(
        "stopwords-not-raised", make_descent_evidence(make_text({DESCENDANT.name: 1.01}, stop_words=shifted))
    )
    assert verdict.status is status
    assert verdict.observed == pytest.approx(mass / 0.4)


def test_without_stop_words_the_check_does_not_apply() -> None:
    evidence = make_descent_evidence(make_text({DESCENDANT.name: 1.01}, stop_words=None))
    assert judge_descent("stopwords-not-raised", evidence).status is Status.SKIPPED


def test_whether_it_is_quantized_does_not_change_the_verdict() -> None:
    plain = make_descent_evidence(make_text(HARMED))
    packed: ModelResult = plain.model_copy(update={"quantization": QuantizationReport(method="gptq")})
    assert judge_descent(CHECK, plain) == judge_descent(CHECK, packed)
