"""Several records as one: nothing of any is lost, none can be changed unseen, and no two are mixed up."""

from __future__ import annotations

from datetime import date
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.descent_pages import make_descent_record
from support.evidence import change_model, compose, make_evidence, make_policy
from support.many import make_many
from support.tables import read_tables

from sw_audit.checks.explain import conclude
from sw_audit.checks.judging import judge_verdicts
from sw_audit.errors import RecordError
from sw_audit.evidence.merge import Given, merge_records, restore_sources, select_models
from sw_audit.evidence.verify import verify_record
from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.record.digest import digest_document
from sw_audit.record.identity import Tool
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.rendering import render_record
from sw_audit.record.statement import make_statement
from sw_audit.record.store import choose_baseline, decode_record, decode_stored, encode_record
from sw_audit.record.verdict import Status

FIGURES = {"Perplexity ratio", "Super weights", "Parent's super weights", "Decided by", "Measured", "Interval"}


@cache
def make_audit(
    model_id: str, *, windows: int = 8, day: int = 2, waived: bool = False, broken: bool = False
) -> Record:
    """Return the record of one judged model, on a day of January 2026; a broken one fails a law as a gate."""
    until = Waiver(check="prune-collapses", model=model_id, until=date(2026, 1, 10), owner="Ada", reason="known")
    policy = make_policy(model_id).model_copy(update={"waivers": (until,) if waived else ()})
    ratios = {"ratios": {}} if broken else {}
    result = make_evidence(model_id, policy=policy, windows=windows, items=8, **ratios)
    checks = ["prune-collapses", "placebo-harmless", "weights-intact"]
    verdicts = judge_verdicts(result, policy, checks, date(2026, 1, day))
    judged = result.model_copy(update={"verdicts": verdicts})
    return compose(
        judged,
        policy=policy,
        created=f"2026-01-{day:02d}T03:04:05+00:00",
        tool=Tool(version=__import__("sw_audit").__version__),
        origin=PolicyOrigin(path=f"{model_id}.toml", models={model_id: 3}, whole=True),
    )


def merge(*records: Record, names: tuple[str, ...] = ()) -> Record:
    named = names or ("",) * len(records)
    return merge_records(
        [Given(one, f"{place}.json", name) for place, (one, name) in enumerate(zip(records, named, strict=True))]
    )


def list_changed(record: Record) -> list[str]:
    """Name what does not verify of a record that is written with a digest that fits."""
    return [doubt.where for doubt in verify_record(decode_stored(encode_record(record)), "record")]


def test_models_stand_in_the_order_of_the_arguments_and_each_keeps_its_policy_and_day() -> None:
    first, second = make_audit("b"), make_audit("a", day=20)
    merged = merge(first, second)
    assert [model.id for model in merged.models] == ["b", "a"]
    assert merged.find_part("b").policy == first.policy
    assert merged.find_part("a").created == "2026-01-20T03:04:05+00:00" == merged.created
    assert merged.find_part("a").origin == second.origin
    assert restore_sources(merged) == [first, second]
    assert [source.sha256 for source in merged.sources] == [
        digest_document(one.model_dump(mode="json", by_alias=True)).sha256 for one in (first, second)
    ]
    assert decode_record(encode_record(merged)) == merged
    assert list_changed(merged) == []


def test_a_waiver_holds_on_the_day_of_its_own_audit() -> None:
    early, late = make_audit("a", waived=True, broken=True), make_audit("b", day=20, waived=True, broken=True)
    held, lapsed = (one.models[0].verdicts[0] for one in (early, late))
    assert (held.check, held.status, held.waiver is None) == ("prune-collapses", Status.FAIL, False)
    assert lapsed.waiver is None
    assert list_changed(merge(early, late, names=("x", "y"))) == []


def test_one_model_from_two_machines_is_told_apart_by_name_or_refused() -> None:
    record = make_audit("a", waived=True, broken=True)
    with pytest.raises(
        RecordError, match=r"record 1\.json: its model 'a' is also in 0\.json; give one of them a name"
    ):
        merge(record, record)
    merged = merge(record, record, names=("laptop", "server"))
    assert [model.id for model in merged.models] == ["a@laptop", "a@server"]
    assert {verdict.model for verdict in merged.models[1].verdicts} == {"a@server"}
    part = merged.find_part("a@server")
    assert part.policy.find_model("a@server").source == "models/a"
    waiver = merged.models[1].verdicts[0].waiver
    assert waiver is not None
    assert waiver.model == "a@server"
    assert part.policy.waivers == (waiver,)
    assert part.origin is not None
    assert part.origin.models == {"a@server": 3}
    assert restore_sources(merged) == [record, record]
    assert list_changed(merged) == []


def test_a_parent_in_the_policy_keeps_its_descendants_under_another_name() -> None:
    record = make_descent_record()
    first, *others = record.policy.models
    asked = (first, *(one.model_copy(update={"parent": "sound"}) for one in others))
    record = record.model_copy(update={"policy": record.policy.model_copy(update={"models": asked})})
    merged = merge(record, names=("n",))
    policy = merged.find_part("broken@n").policy
    assert policy.find_parent(policy.find_model("broken@n")) == policy.find_model("sound@n")
    assert restore_sources(merged) == [record]


@pytest.mark.parametrize("name", ["a/b", "a:b", "[", "a ", "x" * 300])
def test_a_name_that_no_id_can_have_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match="no id of a model can have it"):
        merge(make_audit("a"), names=(name,))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["", "x", "y"]), min_size=3, max_size=3), st.integers(0, 3))
def test_merging_is_associative_and_flat(names: list[str], cut: int) -> None:
    given_ = [Given(make_audit(f"m{place}"), "r", name) for place, name in enumerate(names)]
    whole = merge_records(given_)
    halves = [merge_records(part) for part in (given_[:cut], given_[cut:]) if part]
    assert merge_records([Given(half, "half") for half in halves]) == whole
    again = merge_records([Given(whole, "whole", "z")])
    assert [source.name for source in again.sources] == ["@".join(filter(None, (name, "z"))) for name in names]
    assert restore_sources(again) == [one.record for one in given_]


def test_a_part_that_was_forged_is_found_though_all_digests_of_the_whole_are_made_anew() -> None:
    sound = make_audit("a", broken=True)
    merged = merge(sound, make_audit("b"))
    verdicts = merged.models[0].verdicts
    flipped = (verdicts[0].model_copy(update={"status": Status.PASS}), *verdicts[1:])
    forged = change_model(merged, "a", verdicts=flipped)
    assert list_changed(forged) == ["sources[0].models[a].verdicts[prune-collapses]", "sources[0]"]
    assert "sources[1]" in list_changed(change_model(merged, "b", seconds=1.0))
    late = merged.sources[1].model_copy(update={"created": "2026-01-03T00:00:00+00:00"})
    assert "sources[1]" in list_changed(merged.model_copy(update={"sources": (merged.sources[0], late)}))
    assert list_changed(merged.model_copy(update={"created": "2027-01-01T00:00:00+00:00"})) == ["record"]
    # Merged again, it stays what it is.
    assert "sources[0]" in list_changed(
        merge_records([Given(forged, "f", verified=False), Given(make_audit("c"), "c")])
    )


def test_models_that_are_those_of_no_source_are_not_read() -> None:
    merged = merge(make_audit("a"), make_audit("b"))
    swapped = merged.model_copy(update={"models": merged.models[::-1]})
    with pytest.raises(RecordError, match="its models are not those of the records that were merged"):
        decode_record(encode_record(swapped))


def test_what_did_not_verify_when_it_was_merged_stays_in_doubt() -> None:
    merged = merge_records([Given(make_audit("a"), "a", verified=False), Given(make_audit("b"), "b")])
    [doubt] = verify_record(decode_stored(encode_record(merged)), "record")
    assert (doubt.where, doubt.open) == ("sources[0]", True)


def test_some_models_of_merged_records_are_records_that_verify() -> None:
    merged = merge(make_audit("a"), make_many(), names=("x", "y"))
    chosen = select_models(merged, ["tuned-3@y", "a@x"])
    assert [model.id for model in chosen.models] == ["a@x", "tuned-3@y"]
    assert not [place for place in list_changed(chosen) if place == "sources[0]" or place == "record"]
    assert chosen.find_part("a@x").policy == merged.find_part("a@x").policy


def test_doubts_fail_or_warn_as_the_policy_of_each_part_says() -> None:
    strict = make_many()
    lax = strict.model_copy(update={"policy": strict.policy.model_copy(update={"inconclusive": "warn"})})
    chosen = [select_models(one, ["alone"]) for one in (strict, lax)]
    assert [conclude([merge(one)]) for one in chosen] == [conclude([one]) for one in chosen]
    assert conclude([merge(chosen[1], chosen[0], names=("l", "s"))]) == conclude([chosen[0]])


def test_a_baseline_is_of_the_day_of_its_own_audit() -> None:
    merged = merge(make_audit("a"), make_audit("b", day=20))
    assert choose_baseline(merged, "merged", ["a"]).created == "2026-01-02T03:04:05+00:00"


def test_what_is_signed_of_a_merged_record_names_each_record_that_was_merged() -> None:
    merged = merge(make_audit("a"), make_audit("b"))
    configuration = make_statement(merged)["predicate"]["configuration"]
    named = {one["name"]: one["digest"]["sha256"] for one in configuration if "digest" in one}
    assert [named[f"merged/{place}"] for place in (0, 1)] == [source.sha256 for source in merged.sources]


def list_mixed(page: str, ids: set[str], others: set[str]) -> list[str]:
    """Name the tables that hold models of both sets, in cells by themselves, and figures."""
    mixed = []
    for caption, rows in read_tables(page):
        cells = {cell for row in rows for cell in row}
        if cells & ids and cells & others and FIGURES & set(rows[0]):
            mixed.append(caption)
    return mixed


@pytest.mark.parametrize("many", [False, True])
def test_figures_of_two_protocols_never_share_a_table(many: bool) -> None:
    records = [make_many() if many else make_descent_record() for _ in range(2)]
    protocols = [record.results[0].protocol for record in records]
    merged = merge(*records, names=("x", "y"))
    ids, others = ({model.id for model in merged.results if model.id.endswith(end)} for end in ("@x", "@y"))
    assert list_mixed(render_record(merged), ids, others)  # one protocol, one table
    assert protocols[0] == protocols[1]
    wider = protocols[1].model_copy(update={"windows": 77})
    records[1] = records[1].model_copy(
        update={
            "models": tuple(
                one if isinstance(one, ModelFailure) else one.model_copy(update={"protocol": wider})
                for one in records[1].models
            )
        }
    )
    merged = merge(*records, names=("x", "y"))
    page = render_record(merged)
    assert list_mixed(page, ids, others) == []
    assert f"rotocol {wider}" in page
    markdown = render_record(merged, "markdown")
    heads = [place for place, line in enumerate(markdown.splitlines()) if line.startswith("| Model |")]
    assert len(heads) >= 2
    text = render_record(merged, "text").splitlines()
    assert len([line for line in text if line.lower().startswith("model  ")]) >= 2


@pytest.mark.parametrize("form", ["html", "markdown", "text", "junit", "sarif"])
def test_every_format_goes_by_the_policy_of_each_part(form: str) -> None:
    merged = merge(make_audit("a"), make_many(), make_audit("a"), names=("x", "", "y"))
    text = render_record(merged, form)
    assert "tuned-5" in text
    if form == "junit":
        assert 'classname="a.toml.a@x"' in text
