"""Keeping a record under a name, comparing with one, naming a parent, remembering: options and ini keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import Inner

from sw_audit.record.store import read_record

ONE = ("-k", "prune-collapses")
BASELINES = Path(".sw-audit/baselines")


def kept(inner: Inner, name: str) -> Path:
    return inner.pytester.path / BASELINES / f"{name}.json"


def test_a_record_is_kept_under_a_name_and_the_summary_says_where(inner: Inner) -> None:
    run = inner.audit("llama-w4", options=(*ONE, "--sw-audit-save=before"))
    assert run.ret == 0
    run.stdout.fnmatch_lines(["baseline: .sw-audit/baselines/before.json"])
    record = inner.pytester.path / "sw-audit-out/record.json"
    assert kept(inner, "before").read_text(encoding="utf-8") == record.read_text(encoding="utf-8")


def test_a_failing_run_is_kept_too_for_it_is_what_was_measured(inner: Inner) -> None:
    assert inner.audit("broken", options=(*ONE, "--sw-audit-save=before")).ret == 1
    assert [one.id for one in read_record(kept(inner, "before")).models] == ["broken"]


def test_of_several_policies_each_is_kept_under_its_own_name_too(inner: Inner, policy_file: Path) -> None:
    other = policy_file.with_name("other.swaudit.toml")
    other.write_text(policy_file.read_text(encoding="utf-8"), encoding="utf-8")
    inner.run(str(policy_file), str(other), *ONE, "--sw-audit-save=before")
    names = sorted(path.name for path in (inner.pytester.path / BASELINES).iterdir())
    assert names == ["before-audit.json", "before-other.json"]


@pytest.mark.slow
def test_workers_keep_one_baseline_together(separate: Inner) -> None:
    separate.audit("llama-w4", "llama-w8", options=(*ONE, "-n2", "--sw-audit-save=before"))
    assert [one.id for one in read_record(kept(separate, "before")).models] == ["llama-w4", "llama-w8"]


@pytest.mark.parametrize("name", ["a/b", "before.json", ".."])
def test_a_name_that_is_none_is_refused_before_anything_is_measured(inner: Inner, name: str) -> None:
    run = inner.audit("llama-w4", options=(f"--sw-audit-save={name}",))
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: baseline *: this is no name; *"])
    assert inner.noted("measure") == []


def test_a_run_in_which_nothing_was_measured_keeps_nothing(inner: Inner) -> None:
    inner.audit("gone", options=("--sw-audit-save=before",))
    assert not kept(inner, "before").exists()


def test_what_is_compared_with_stands_in_the_policy_and_adds_its_checks(inner: Inner) -> None:
    inner.audit("llama-w4", options=("--sw-audit-compare=before",))
    assert inner.policy()["compare"] == "before"
    checks = {check for _, check in inner.verdicts()}
    assert {"super-weight-unmoved", "super-activation-unmoved", "quality-not-worse"} <= checks


def test_a_baseline_in_an_ini_file_stays_a_name_whatever_lies_beside_it(inner: Inner) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_compare = before\n")
    inner.pytester.mkdir("before")
    inner.audit("llama-w4", options=ONE)
    assert inner.policy()["compare"] == "before"


def test_a_record_in_an_ini_file_is_taken_from_where_that_lies(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner.pytester.makeini("[pytest]\nsw_audit_compare = kept/record.json\n")
    inner.pytester.mkdir("kept").joinpath("record.json").write_text("{}")
    folder = inner.pytester.mkdir("sub")
    monkeypatch.chdir(folder)
    inner.audit("llama-w4", options=ONE)
    compared = inner.policy("sub/sw-audit-out/record.json")["compare"]
    assert (folder / compared).resolve() == inner.pytester.path / "kept/record.json"


def test_a_parent_is_given_to_every_model_but_itself(inner: Inner) -> None:
    inner.audit("llama-w4", "llama-base", options=("--sw-audit-parent=llama-base",))
    models = inner.policy()["model"]
    assert {one["id"]: one["parent"] for one in models} == {"llama-w4": "llama-base", "llama-base": None}


def test_a_cache_that_was_named_and_cannot_be_is_refused_before_anything_is_measured(inner: Inner) -> None:
    (inner.pytester.path / "file").write_text("")
    run = inner.audit("llama-w4", options=("--sw-audit-cache-dir=file/cache",))
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: cache *: it cannot be written there; name another folder, or --no-cache"])
    assert inner.noted("measure") == []
