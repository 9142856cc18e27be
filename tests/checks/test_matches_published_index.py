from __future__ import annotations

import pytest
from support.critical import GAIN, NORM, make_rich_search
from support.evidence import (
    CHANNEL,
    COLUMN,
    LAYER,
    NOT_PUBLISHED,
    SUPER_WEIGHT,
    make_evidence,
    make_location,
    make_published,
)

from sw_audit.checks.judging import judge_result
from sw_audit.checks.limits import CheckLimits
from sw_audit.checks.matches_published_index import MatchesPublishedIndexLimits
from sw_audit.policy.policy import Policy
from sw_audit.record.location import Outcome, Rotation
from sw_audit.record.published import Impact, Lookup, Match, PublishedWeight, Trust
from sw_audit.record.verdict import Finding, Status, Verdict

CHECK = "matches-published-index"
# The made-up model's super weight is at layer 1, [37, 211]; these are not.
ELSEWHERE = {"layer": 3, "row": 5, "column": 6}


def publish(
    bearing: Impact = Impact.ALONE,
    *,
    layer: int | None = LAYER,
    row: int | None = CHANNEL,
    column: int | None = COLUMN,
    sources: tuple[str, ...] = ("PAPER",),
    note: str = "",
) -> PublishedWeight:
    return PublishedWeight(layer=layer, row=row, column=column, bearing=bearing, sources=sources, note=note)


def judge(lookup: Lookup | None, *, trust: Trust = "medium", outcome: Outcome = Outcome.LOCATED) -> Verdict:
    policy = Policy(
        checks=CheckLimits({"matches-published-index": MatchesPublishedIndexLimits(minimum_trust=trust)})
    )
    evidence = make_evidence(outcome=outcome).model_copy(update={"published": lookup})
    (verdict,) = judge_result(evidence, policy, [CHECK])
    assert (verdict.remedy is not None) == (verdict.status in (Status.FAIL, Status.INCONCLUSIVE))
    return verdict


def find(verdict: Verdict, label: str) -> Finding:
    [finding] = [one for one in verdict.findings if one.label == label]
    return finding


def test_a_published_coordinate_that_is_located_passes() -> None:
    verdict = judge(make_published())
    assert verdict.status is Status.PASS
    assert (verdict.observed, verdict.limit) == (1, 1)
    assert find(verdict, "published: layer 1 [37, 211]").status is Status.PASS
    assert find(verdict, "located: layer 1 [37, 211]").because == "published, bearing alone"


@pytest.mark.parametrize(
    ("bearing", "match", "own", "status"),
    [
        (Impact.ALONE, Match.LISTED, False, Status.FAIL),
        (Impact.JOINTLY, Match.LISTED, False, Status.FAIL),
        (Impact.ALONE, Match.NAMED, False, Status.FAIL),
        (Impact.UNMEASURED, Match.DIGEST, True, Status.FAIL),  # the user's own finding is gone
        (Impact.MINOR, Match.LISTED, False, Status.INCONCLUSIVE),
        (Impact.UNMEASURED, Match.LISTED, False, Status.INCONCLUSIVE),
        (Impact.ALONE, Match.VARIANT, False, Status.INCONCLUSIVE),
        (Impact.ALONE, Match.DERIVED, False, Status.INCONCLUSIVE),
        (Impact.REFUTED, Match.LISTED, False, Status.SKIPPED),
        (Impact.REFUTED, Match.LISTED, True, Status.SKIPPED),
    ],
)
def test_none_located_fails_only_where_a_model_of_that_very_name_is_known_to_need_them(
    bearing: Impact, match: Match, own: bool, status: Status
) -> None:
    verdict = judge(make_published(publish(bearing, **ELSEWHERE), match=match, own=own))
    assert verdict.status is status
    if status is not Status.SKIPPED:
        assert (verdict.observed, verdict.limit) == (0, 1)
        assert "missing: layer 3 [5, 6]" in verdict.because


@pytest.mark.parametrize("match", list(Match)[:-1])
@pytest.mark.parametrize("bearing", [Impact.ALONE, Impact.JOINTLY, Impact.MINOR, Impact.UNMEASURED])
def test_all_located_passes_however_the_entry_was_found(match: Match, bearing: Impact) -> None:
    assert judge(make_published(publish(bearing), match=match)).status is Status.PASS


def test_some_of_several_that_are_load_bearing_is_inconclusive() -> None:
    verdict = judge(make_published(publish(Impact.JOINTLY), publish(Impact.JOINTLY, **ELSEWHERE)))
    assert verdict.status is Status.INCONCLUSIVE
    assert (verdict.observed, verdict.limit) == (1, 2)
    assert verdict.because.startswith("1 of 2 deciding coordinates of owner/made-up")


def test_a_minor_one_beside_a_load_bearing_one_decides_nothing() -> None:
    lost = make_published(publish(Impact.MINOR), publish(Impact.ALONE, **ELSEWHERE))
    kept = make_published(publish(Impact.ALONE), publish(Impact.MINOR, **ELSEWHERE))
    assert judge(lost).status is Status.FAIL
    verdict = judge(kept)
    assert verdict.status is Status.PASS
    beside = find(verdict, "published: layer 3 [5, 6]")
    assert beside.status is Status.SKIPPED
    assert "it decides nothing" in beside.because


def test_the_misprint_of_a_coordinate_and_other_false_positives_decide_nothing() -> None:
    verdict = judge(make_published(publish(), publish(Impact.REFUTED, **ELSEWHERE, note="a misprint")))
    assert verdict.status is Status.PASS
    assert "a misprint" in find(verdict, "published: layer 3 [5, 6]").because


def test_a_row_or_a_column_alone_decides_nothing_but_its_kin_is_named() -> None:
    verdict = judge(make_published(publish(column=None), publish(layer=None, row=None)))
    assert verdict.status is Status.SKIPPED
    assert "no scalar in full" in verdict.because
    assert "layer 1 [37, 211] (same row) is" in find(verdict, "published: layer 1, row 37").because
    assert "(same column) is" in find(verdict, "published: layer ? [?, 211]").because


def test_siblings_in_row_and_column_are_named() -> None:
    published = (publish(column=9), publish(row=8), publish(layer=5))
    verdict = judge(make_published(*published))
    assert verdict.status is Status.FAIL
    assert (
        "not located, but layer 1 [37, 211] (same row) is" in find(verdict, "published: layer 1 [37, 9]").because
    )
    assert "(same column)" in find(verdict, "published: layer 1 [8, 211]").because
    assert "(same row, another layer)" in find(verdict, "published: layer 5 [37, 211]").because
    new = find(verdict, "located: layer 1 [37, 211]").because
    assert new.startswith("new: same row as layer 1 [37, 9], same column as layer 1 [8, 211], same row, another")


def test_what_nobody_has_published_is_told_as_new() -> None:
    verdict = judge(make_published(publish(**ELSEWHERE)))
    assert find(verdict, "located: layer 1 [37, 211]").because.startswith("new: no published coordinate shares")


def test_an_expert_is_part_of_the_coordinate() -> None:
    weights = tuple(SUPER_WEIGHT.model_copy(update={"expert": expert}) for expert in (3, 4))
    location = make_location().model_copy(update={"super_weights": weights})
    policy = Policy()
    for expert, status in ((3, Status.PASS), (None, Status.FAIL), (5, Status.FAIL)):
        lookup = make_published(publish().model_copy(update={"expert": expert}))
        evidence = make_evidence(location=location, published=lookup)
        assert judge_result(evidence, policy, [CHECK])[0].status is status


def test_the_remedy_names_the_users_own_index_where_there_is_one() -> None:
    evidence = make_evidence().model_copy(update={"published": make_published(publish(**ELSEWHERE), own=True)})
    for index, command in ((None, "index owner/made-up`"), ("mine.toml", "index owner/made-up --file mine.toml`")):
        (verdict,) = judge_result(evidence, Policy(index=index), [CHECK])
        assert verdict.remedy is not None
        assert command in verdict.remedy


def test_what_only_an_untrusted_source_says_does_not_decide_unless_the_policy_wants_it() -> None:
    rumour = make_published(publish(sources=("RUMOUR",), **ELSEWHERE))
    verdict = judge(rumour)
    assert verdict.status is Status.SKIPPED
    assert "no source of its scalars is trusted enough" in verdict.because
    assert judge(rumour, trust="low").status is Status.FAIL
    both = make_published(publish(sources=("RUMOUR", "PAPER"), **ELSEWHERE))
    assert judge(both, trust="high").status is Status.FAIL


def test_a_model_without_super_weights_fails_where_others_have_found_them() -> None:
    verdict = judge(make_published(), outcome=Outcome.NONE)
    assert verdict.status is Status.FAIL
    assert "0 of 1" in verdict.because


def test_a_model_that_is_not_in_the_index_is_skipped_with_the_reason_and_the_nearest_ids() -> None:
    verdict = judge(NOT_PUBLISHED)
    assert verdict.status is Status.SKIPPED
    assert NOT_PUBLISHED.because in verdict.because
    assert "huggyllama/llama-7b" in verdict.because


def test_a_model_that_was_not_looked_up_is_inconclusive() -> None:
    verdict = judge(None)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.observed is None


def test_an_entry_without_coordinates_is_skipped() -> None:
    lookup = make_published()
    assert lookup.model is not None
    empty = lookup.model_copy(update={"model": lookup.model.model_copy(update={"weights": ()})})
    verdict = judge(empty)
    assert verdict.status is Status.SKIPPED
    assert "it names no coordinate" in verdict.because


@pytest.mark.parametrize("declared", [True, False])
def test_in_a_rotated_checkpoint_published_coordinates_are_absent_by_design(declared: bool) -> None:
    rotation = Rotation(declared=declared, because="something says so")
    location = make_location(Outcome.NONE).model_copy(update={"rotation": rotation})
    evidence = make_evidence(location=location).model_copy(update={"published": make_published()})
    (verdict,) = judge_result(evidence, Policy(), [CHECK])
    assert verdict.status is Status.SKIPPED
    assert "0 of 1 deciding coordinates" in verdict.because
    assert "published coordinates are absent by design" in verdict.because
    assert find(verdict, "published: layer 1 [37, 211]").status is Status.FAIL


def test_where_a_rotated_checkpoint_has_them_all_the_same_it_passes() -> None:
    rotation = Rotation(declared=True, because="something says so")
    location = make_location().model_copy(update={"rotation": rotation})
    evidence = make_evidence(location=location).model_copy(update={"published": make_published()})
    assert judge_result(evidence, Policy(), [CHECK])[0].status is Status.PASS


@pytest.mark.parametrize(
    ("parameter", "index", "searched", "words"),
    [
        (NORM, (17,), True, "found to matter (alone, perplexity x22.35)"),
        (GAIN, (9,), True, "found to matter (masks, perplexity x0.98)"),
        ("model.embed_tokens.weight", (11, 7), True, "found to matter (together)"),
        ("model.embed_tokens.weight", (3, 3), True, "tried, and not found to matter, perplexity x1"),
        (NORM, (18,), True, "no candidate of the search"),
        (NORM, (17,), False, "nobody searched for it"),
    ],
)
def test_a_scalar_of_any_parameter_is_held_against_the_search_and_decides_nothing(
    parameter: str, index: tuple[int, ...], searched: bool, words: str
) -> None:
    other = PublishedWeight(parameter=parameter, index=index, bearing=Impact.ALONE, sources=("PAPER",))
    update = {"critical": make_rich_search() if searched else None}
    for weights, status in (((publish(), other), Status.PASS), ((other,), Status.SKIPPED)):
        evidence = make_evidence().model_copy(update={"published": make_published(*weights), **update})
        (verdict,) = judge_result(evidence, Policy(), [CHECK])
        finding = find(verdict, f"published: {other}")
        assert (verdict.status, finding.status, finding.observed) == (status, Status.SKIPPED, None)
        assert finding.because.startswith(f"{words}; bearing alone, published by PAPER; it decides nothing (")
    assert "its scalars are not published as super weights" in verdict.because
