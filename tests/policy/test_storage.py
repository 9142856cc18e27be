from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from support.rounding import label_groups, recipes, shapes

from sw_audit.policy.recipe import Recipe, parse_recipe
from sw_audit.policy.storage import count_bits, count_groups, explain_holdout, find_survivors


@given(shape=shapes, recipe=recipes)
def test_there_are_as_many_groups_as_the_definition_makes(shape: tuple[int, int], recipe: Recipe) -> None:
    assert count_groups(recipe, shape) == len(numpy.unique(label_groups(shape, recipe)))


@pytest.mark.parametrize(
    ("notation", "shape", "held", "bits"),
    [
        # 64 weights of 4 bits and one scale of 16: 4.25 bits per weight; with a lower end 4.5.
        ("nf4/group64", (1, 64), 0, 272),
        ("int4/group64/symmetric", (1, 64), 0, 272),
        ("int4/group64", (1, 64), 0, 288),
        # 100 columns are a group of 64 and one of 36 in each of 2 rows.
        ("int3/group64/symmetric/search", (2, 100), 0, 3 * 200 + 4 * 16),
        # 5 x 5 in blocks of 2 x 2 are 3 x 3 blocks.
        ("int8/2x2", (5, 5), 0, 8 * 25 + 9 * 32),
        # The places of 4096 x 11008 weights need 26 bits, a value 16.
        ("int4/tensor", (4096, 11008), 3, 4 * 4096 * 11008 + 32 + 3 * 42),
        ("int4/run10/z9", (3, 7), 0, 4 * 21 + 3 * 32),
        ("int2/row", (0, 7), 0, 0),
    ],
)
def test_bits_worked_by_hand(notation: str, shape: tuple[int, int], held: int, bits: int) -> None:
    assert count_bits(parse_recipe(notation), shape, held) == bits


def test_coarse_blocks_cost_almost_nothing_beside_the_codes() -> None:
    weights = 4096 * 11008
    fine, coarse = (
        count_bits(parse_recipe(name), (4096, 11008), 6) / weights for name in ("int4/8x8", "int4/512x512")
    )
    assert fine == pytest.approx(4.5, abs=1e-4)
    assert coarse == pytest.approx(4 + 8 * 22 * 32 / weights, abs=1e-5)


@pytest.mark.parametrize(
    ("notation", "survivors", "words"),
    [
        ("int4/row/symmetric", "largest", "keeps its value, held out or not"),
        ("nf3/group64", "largest", "keeps its value, held out or not"),
        ("int4/512x512", "ends", "an end of its range"),
        ("int4/row/z9", "none", "clipping may cut off"),
        ("nf4/row/search", "none", "clipping may cut off"),
        ("int4/1x1", "all", "changes nothing"),
        ("int4/group1/z9", "all", "changes nothing"),
        ("int4/run1", "all", "changes nothing"),
    ],
)
def test_it_is_said_where_holding_out_is_a_no_op(notation: str, survivors: str, words: str) -> None:
    assert find_survivors(parse_recipe(notation)) == survivors
    assert words in explain_holdout(parse_recipe(notation))
