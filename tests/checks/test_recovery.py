"""What parts of the parent recover, step by step; every share is worked out from the ratios that are given."""

from __future__ import annotations

import math

import pytest
from support.descent import CHILD, MODULE, PATHS, make_descent_evidence, make_descent_policy, make_text
from support.evidence import LAYERS, make_protocol

from sw_audit.checks.context import CheckContext
from sw_audit.checks.perplexity_ratio import perplexity_ratio
from sw_audit.checks.recovery import Search, Tried, list_searches, trace_path
from sw_audit.record.arm import (
    DESCENDANT,
    RESTORED_WEIGHTS,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredSet,
)
from sw_audit.record.record import ModelResult

DOWN, UP, LAYER = RestoredKind(path="mlp.down_proj"), RestoredKind(path="mlp.up_proj"), RestoredLayer(layer="l.3")
ONE, TWO = RestoredModule(module="l.3.a"), RestoredModule(module="l.4.a")
ALL = RestoredLayers()


def search(ratios: dict[str, float | None], lost: float | None = 8.0, windows: int = 32) -> Search:
    """Return what was put back into a descendant that has `lost` times its parent's perplexity."""
    text = make_text({DESCENDANT.name: lost, **ratios}, windows=windows, protocol=make_protocol(windows=windows))
    evidence = make_descent_evidence(recovery=text, modules=LAYERS * len(PATHS))
    assert evidence.model.id == CHILD
    return list_searches(CheckContext(perplexity_ratio, evidence, make_descent_policy()), margin=1.1)[0]


def test_the_path_begins_with_what_recovers_most_and_goes_on_with_what_adds_most() -> None:
    first, second = RestoredSet(parts=(DOWN, UP)), RestoredSet(parts=(DOWN, UP, LAYER))
    tried = [
        Tried(ALL, 1.0, 56),
        Tried(UP, 0.3, 8),
        Tried(DOWN, 0.5, 8),
        Tried(LAYER, 0.2, 7),
        Tried(RestoredSet(parts=(DOWN, LAYER)), 0.55, 15),
        Tried(first, 0.7, 16),
        # Beside another path: that it is best of its length counts for nothing.
        Tried(RestoredSet(parts=(UP, DOWN, ONE)), 0.99, 17),
        Tried(second, 0.75, 23),
    ]
    assert trace_path(tried) == [DOWN, first, second]
    assert trace_path(reversed(tried)) == [DOWN, first, second]


def test_of_parts_that_add_nine_tenths_of_the_most_the_smallest_is_taken() -> None:
    assert trace_path([Tried(DOWN, 0.50, 8), Tried(ONE, 0.45, 1)]) == [ONE]
    assert trace_path([Tried(DOWN, 0.50, 8), Tried(ONE, 0.449, 1)]) == [DOWN]
    # What counts is what is added to the 0.4 before: 0.09 is nine tenths of 0.1, 0.08 is not.
    sets = [RestoredSet(parts=(TWO, part)) for part in (DOWN, ONE)]
    for added, best in ((0.4901, sets[1]), (0.48, sets[0])):
        tried = [Tried(TWO, 0.4, 1), Tried(sets[0], 0.5, 9), Tried(sets[1], added, 2)]
        assert trace_path(tried) == [TWO, best]


def test_the_path_ends_where_nothing_is_added() -> None:
    both = RestoredSet(parts=(ONE, TWO))
    assert trace_path([Tried(ONE, 0.4, 1), Tried(TWO, 0.1, 1), Tried(both, 0.4, 2)]) == [ONE]
    assert trace_path([Tried(ONE, 0.0, 1), Tried(TWO, -0.1, 1), Tried(ALL, 0.9, 56)]) == []
    assert trace_path([]) == []


def test_a_share_is_that_of_the_lost_nats_and_says_what_is_left() -> None:
    [recovery] = search({DOWN.name: 2.0}).recoveries
    assert recovery.score == recovery.estimate.observed == pytest.approx(math.log(4) / math.log(8))
    assert recovery.told.startswith("66.7 % [66")
    assert recovery.told.endswith("] of the loss is recovered (times 2 is left)")
    assert recovery.share.endswith("] (times 2)")
    assert (recovery.subject, recovery.size) == ("every mlp.down_proj of the parent", LAYERS)
    assert recovery.modules == tuple(f"model.layers.{layer}.mlp.down_proj" for layer in range(LAYERS))


@pytest.mark.parametrize(("left", "heals"), [(1.3, True), (8**0.2, False), (1.6, False)])
def test_a_part_heals_where_it_is_certain_to_recover_four_fifths(left: float, heals: bool) -> None:
    # 1.3 leaves 12.6 % of ln 8, the fifth root of 8 a fifth to a hair, 1.6 leaves 22.6 %.
    found = search({DOWN.name: left})
    assert found.path[0].heals is heals
    assert (found.healing is not None) is heals


def test_a_loss_is_spread_where_no_set_heals_or_that_needs_more_than_a_third_of_all_modules() -> None:
    assert search({DOWN.name: 4.0, ALL.name: 1.0}).spread
    # Two kinds of seven are fewer than a third, three are more.
    pair = " + ".join((DOWN.name, UP.name))
    three = f"{pair} + parent-kind/mlp.gate_proj"
    two = search({DOWN.name: 4.0, UP.name: 5.0, pair: 1.2})
    assert (two.spread, two.advised) == (False, two.path[1])
    many = search({DOWN.name: 4.0, UP.name: 5.0, pair: 3.0, three: 1.2})
    assert many.healing is many.path[2]
    assert (many.spread, many.advised) == (True, None)


def test_of_what_heals_that_with_the_fewest_modules_is_advised() -> None:
    pair = " + ".join((ONE.name, TWO.name))
    found = search({ONE.name: 4.0, TWO.name: 5.0, DOWN.name: 1.1, pair: 1.2, ALL.name: 1.0})
    assert found.path[0].arm == DOWN
    assert found.advised is not None
    assert found.advised.arm.name == pair


def test_what_all_decoder_layers_do_not_bring_back_lies_outside() -> None:
    assert search({DOWN.name: 7.0, ALL.name: 6.0}).outside
    assert not search({DOWN.name: 7.0, ALL.name: 1.0}).outside
    assert not search({DOWN.name: 7.0}).outside


def test_of_a_set_with_super_weights_their_module_is_left_out_unless_it_is_put_back_whole() -> None:
    module = RestoredModule(module=MODULE)
    names = [RESTORED_WEIGHTS.name, UP.name, module.name]
    _, up, whole = search(
        {RESTORED_WEIGHTS.name: 4.0, " + ".join(names[:2]): 2.0, " + ".join((names[0], names[2])): 3.0}
    ).recoveries
    assert (up.holding, up.size, len(up.modules)) == ((MODULE,), LAYERS, LAYERS + 1)
    assert up.subject == "the parent's super weight and every mlp.up_proj of the parent"
    assert up.added == "every mlp.up_proj of the parent"
    assert (whole.holding, whole.size, whole.modules) == ((), 1, (MODULE,))


def test_of_a_loss_without_end_a_part_heals_where_what_is_left_is_within_the_margin() -> None:
    found = search({ONE.name: 1.02, TWO.name: 4.0, DOWN.name: None}, lost=None)
    near, far, none = found.recoveries
    assert (near.heals, far.heals, none.heals) == (True, False, False)
    assert (near.score, far.score, none.score) == (pytest.approx(1 / 1.02), 0.25, -math.inf)
    assert found.path == [near]
    assert near.told == "the perplexity is finite again, 1.02 times the parent's"


def test_without_a_certain_loss_nothing_is_recovered() -> None:
    assert search({ONE.name: 1.0}, lost=1.0).recoveries == ()
    assert search({ONE.name: 1.0}, lost=0.8).recoveries == ()


def test_with_too_few_windows_a_share_has_no_interval_and_heals_nothing() -> None:
    found = search({ONE.name: 1.0}, windows=3)
    [recovery] = found.recoveries
    assert (recovery.heals, recovery.told) == (False, "100 % of the loss is recovered (times 1 is left)")


def test_the_search_comes_before_the_texts_and_tells_how_much_text_it_is_on() -> None:
    evidence: ModelResult = make_descent_evidence(
        make_text({DESCENDANT.name: 8.0, RESTORED_WEIGHTS.name: 4.0}),
        recovery=make_text({DESCENDANT.name: 8.0, ONE.name: 4.0}, windows=9),
        modules=56,
    )
    cut, text = list_searches(CheckContext(perplexity_ratio, evidence, make_descent_policy()), margin=1.1)
    assert (cut.pair.label, cut.total) == (f"specimen, 9 windows of {make_protocol().window} tokens", 56)
    assert (text.pair.label, text.total, text.spread) == ("specimen", 0, False)
