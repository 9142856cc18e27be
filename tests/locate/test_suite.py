"""Fifty of the generated models that `make bench` judges by the hundred: every planted scalar, and no other."""

from __future__ import annotations

import pytest
from support.suite import FAMILIES, RELATIVE, Score, judge_model

from sw_audit.testing import draw_design
from sw_audit.testing.designs import SHAPES, TRAPS

NUMBERS = range(1000, 1050)
"""Beside those of the benchmark."""


@pytest.mark.parametrize("number", NUMBERS)
def test_all_super_weights_of_a_planted_model_are_located_and_nothing_else(number: int) -> None:
    result = judge_model(number)
    assert result.ours == Score(found=len(result.design.super_weights)), result.design


def test_these_models_hold_every_family_shape_trap_and_dtype() -> None:
    designs = [draw_design(number, families=FAMILIES) for number in NUMBERS]
    assert {one.family for one in designs} == set(FAMILIES)
    assert {one.shape for one in designs} == {*SHAPES, "none"}
    assert {trap for one in designs for trap in one.traps} == set(TRAPS)
    assert {one.dtype for one in designs} == {"float32", "bfloat16", "float16"}
    assert {one.start for one in designs} == {"bos", "first", "delimiter"}


def test_the_naive_method_fails_on_them() -> None:
    results = [judge_model(number) for number in NUMBERS[:12]]
    for number in range(len(RELATIVE)):
        assert any(one.relative[number].missed or one.relative[number].false for one in results)
    assert any(one.absolute.missed or one.absolute.false for one in results)
