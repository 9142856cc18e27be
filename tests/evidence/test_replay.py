"""A record measured again: what reproduces is told apart from what does not, and from what cannot be told."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.evidence import compose, judge_model, make_evidence, make_policy, make_protocol

from sw_audit.errors import InputError
from sw_audit.evidence.merge import Given, merge_records
from sw_audit.evidence.replay import (
    Agreement,
    compare_models,
    compare_verdicts,
    list_differences,
    replay_record,
)
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path

RATIO = Verdict(
    check="perplexity-ratio", model="a", status=Status.PASS, observed=1.02, low=1.01, high=1.03, because="why"
)


def compare(now: Verdict, then: Verdict = RATIO, *, alike: bool = True, same_tool: bool = True) -> Agreement:
    return compare_verdicts(then, now, alike, same_tool)[0]


def change(**fields: object) -> Verdict:
    return RATIO.model_copy(update=fields)


@pytest.mark.parametrize(
    ("now", "agreement"),
    [
        (RATIO, Agreement.EXACT),
        (change(because="other words"), Agreement.EXACT),
        (change(observed=1.0299, low=1.02, high=1.04), Agreement.WITHIN),
        (change(observed=1.04, low=1.03, high=1.05), Agreement.WITHIN),  # the intervals touch
        (change(observed=1.04, low=1.031, high=1.05), Agreement.DIFFERS),
        (change(observed=1.04, low=None, high=None), Agreement.DIFFERS),
        (change(status=Status.INCONCLUSIVE), Agreement.DIFFERS),
        (change(observed=None, low=None, high=None), Agreement.DIFFERS),
    ],
)
def test_a_verdict_reproduces_by_status_and_interval(now: Verdict, agreement: Agreement) -> None:
    assert compare(now) is agreement


def test_a_figure_without_an_interval_has_to_be_the_same_where_the_environment_is() -> None:
    bare = change(low=None, high=None)
    assert compare(bare.model_copy(update={"observed": 1.02 * (1 + 1e-12)}), bare) is Agreement.WITHIN
    other = bare.model_copy(update={"observed": 1.021})
    assert compare(other, bare) is Agreement.DIFFERS
    assert compare(other, bare, alike=False) is Agreement.OPEN


def test_what_counts_another_number_of_things_does_not_reproduce_without_a_figure() -> None:
    counted = change(observed=None, low=None, high=None, counts={"scalars": 3})
    assert compare(counted, counted) is Agreement.EXACT
    assert compare(counted.model_copy(update={"counts": {"scalars": 4}}), counted) is Agreement.DIFFERS
    assert (
        compare(counted.model_copy(update={"coordinates": ("w[0, 1]",)}), counted, alike=False) is Agreement.OPEN
    )


def test_another_status_cannot_be_told_of_another_version_of_the_tool_alone() -> None:
    failed = change(status=Status.FAIL)
    assert compare(failed, same_tool=False, alike=False) is Agreement.OPEN
    assert compare(failed, alike=False) is Agreement.DIFFERS


@cache
def make_audit() -> Record:
    policy = make_policy("a")
    return compose(judge_model(make_evidence("a", policy=policy, windows=8, items=8), policy), policy=policy)


def list_agreements(**changes: object) -> set[Agreement]:
    then = make_audit()
    model = then.models[0].model_copy(update=changes)
    return {one.agreement for one in compare_models(then.models[0], model, then, then)}


def test_nothing_reproduces_on_other_weights_or_under_another_protocol() -> None:
    assert list_agreements() == {Agreement.EXACT}
    [result] = make_audit().results
    assert list_agreements(protocol=make_protocol(windows=8, seed=1)) == {Agreement.DIFFERS}
    other = result.model.model_copy(update={"digest": "0" * 64})
    assert list_agreements(model=other) == {Agreement.DIFFERS}
    assert list_agreements(verdicts=()) == {Agreement.DIFFERS}


def test_a_figure_without_an_interval_cannot_be_told_where_less_text_was_measured() -> None:
    then = make_audit()
    [result] = then.results
    bare = change(low=None, high=None)
    old = result.model_copy(update={"verdicts": (bare,)})
    shorter = tuple(one.first(4, 8) for one in result.measurements)
    moved = bare.model_copy(update={"observed": 1.0})
    new = result.model_copy(update={"verdicts": (moved,), "measurements": shorter})
    [one] = compare_models(old, new, then, then)
    assert one.agreement is Agreement.OPEN
    assert one.because.endswith("8 windows were measured then, 4 now")


def test_a_text_of_another_name_is_the_same_protocol() -> None:
    [result] = make_audit().results
    corpus = result.protocol.corpus.model_copy(update={"name": "~/elsewhere.txt"})
    assert list_agreements(protocol=result.protocol.model_copy(update={"corpus": corpus})) == {Agreement.EXACT}


def test_a_model_that_could_not_be_measured_again_does_not_reproduce() -> None:
    then = make_audit()
    failure = ModelFailure(model="a", message="it is gone")
    found = list(compare_models(then.models[0], failure, then, then))
    assert {one.agreement for one in found} == {Agreement.DIFFERS}
    assert {one.because for one in found} == {"it is gone"}


def test_what_differs_in_tool_and_environment_is_named() -> None:
    then = make_audit()
    packages = {**then.environment.packages, "torch": "9.9"}
    environment = then.environment.model_copy(update={"python": "3.99", "threads": 64, "packages": packages})
    tool = then.tool.model_copy(update={"version": "7.0"})
    now = then.model_copy(update={"environment": environment, "tool": tool})
    assert list(list_differences(then, now)) == [
        "sw-audit 0.1.0 then, 7.0 now",
        "Python 3.11.9 then, 3.99 now",
        "threads 2 then, 64 now",
        "torch 2.13.0 then, 9.9 now",
    ]
    assert list(list_differences(then, then)) == []


def test_a_check_that_was_not_judged_is_one_line() -> None:
    with pytest.raises(InputError, match=r"check 'prune-collapse': .*did you mean 'prune-collapses'"):
        replay_record(make_audit(), ["prune-collapse"])


def test_weights_that_are_not_there_are_one_line_that_says_what_to_do() -> None:
    [result] = make_audit().results
    held = result.model_copy(update={"model": result.model.model_copy(update={"source": "/gone/models/a"})})
    with pytest.raises(InputError, match=r"model a: there is nothing at /gone/models/a; say .*--model a=PATH"):
        replay_record(make_audit().model_copy(update={"models": (held,)}))


def test_a_model_that_was_in_memory_cannot_be_replayed() -> None:
    [result] = make_audit().results
    held = result.model_copy(update={"model": result.model.model_copy(update={"in_place": True})})
    with pytest.raises(InputError, match="it was in memory when it was audited"):
        replay_record(make_audit().model_copy(update={"models": (held,)}))


CHECKS = ("super-weight-located", "prune-collapses", "weights-intact", "placebo-harmless")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the specimen in it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(specimen_path(), folder / "models" / "tiny")
    return folder


@pytest.fixture(scope="module")
def audited(home: Path) -> Record:
    model = ModelPolicy(source=str(home / "models" / "tiny"), id="tiny", expect="some")
    policy = Policy(models=(model,), corpus=CorpusPolicy(source="specimen", windows=16))
    return run(policy, checks=CHECKS)


def make_homely(record: Record, home: Path) -> Record:
    """Return a record as it is where the home folder is left out of it."""
    return Record.model_validate_json(record.model_dump_json(by_alias=True).replace(str(home), "~"))


@pytest.mark.slow
def test_the_specimens_record_reproduces_from_a_home_folder_also_merged(
    audited: Record, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    record = make_homely(audited, home)
    assert record.results[0].model.source == "~/models/tiny"
    replay = replay_record(record)
    assert [one.check for one in replay.verdicts] == [one.check for one in record.verdicts]
    assert {one.agreement for one in replay.verdicts} == {Agreement.EXACT}
    assert replay.reproduced is True
    assert replay.differences == ()
    twice = merge_records([Given(record, "a", "x"), Given(record, "b", "y")])
    merged = replay_record(twice, ["weights-intact"])
    assert [(one.model, one.agreement) for one in merged.verdicts] == [
        ("tiny@x", Agreement.EXACT),
        ("tiny@y", Agreement.EXACT),
    ]
    assert merged.record.sources


@pytest.mark.slow
def test_a_record_with_another_figure_or_seed_does_not_reproduce(audited: Record, home: Path) -> None:
    [result] = audited.results
    place = [one.check for one in result.verdicts].index("prune-collapses")
    figure = result.verdicts[place]
    assert figure.observed is not None
    raised = figure.model_copy(update={"observed": 9 * figure.observed, "low": 8 * figure.observed, "high": 1e9})
    verdicts = (*result.verdicts[:place], raised, *result.verdicts[place + 1 :])
    forged = audited.model_copy(update={"models": (result.model_copy(update={"verdicts": verdicts}),)})
    replay = replay_record(forged, ["prune-collapses"], {"tiny": str(home / "models" / "tiny")})
    assert replay.reproduced is False
    seeded = audited.model_copy(update={"policy": audited.policy.model_copy(update={"seed": 1})})
    [one] = replay_record(seeded, ["weights-intact"]).verdicts
    assert (one.agreement, "seed 0 then, 1 now" in one.because) == (Agreement.DIFFERS, True)


@pytest.mark.slow
def test_changed_weights_are_refused_before_anything_is_measured(audited: Record, tmp_path: Path) -> None:
    folder = shutil.copytree(specimen_path(), tmp_path / "changed")
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"model tiny at .*changed: weights\[tiny\].model.safetensors: its sha256 is"
    ):
        replay_record(audited, places={"tiny": str(folder)})
