from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.fake_runner import CHECKS
from support.runs import Inner

from sw_audit.record.store import read_record
from sw_audit.record.verdict import Status


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_policy_leaves_a_record_and_a_report(inner: Inner) -> None:
    inner.audit("llama-w4", "broken", options=("--tb=no",))
    out = inner.pytester.path / "sw-audit-out"
    assert list_files(out) == ["record.json", "report.html"]
    record = read_record(out / "record.json")
    assert [model.id for model in record.models] == ["llama-w4", "broken"]
    assert len(record.verdicts) == 2 * CHECKS


def test_the_record_holds_the_verdicts_of_the_selected_checks_only(inner: Inner) -> None:
    inner.audit("llama-w4", options=("-k", "stopword or prune"))
    assert set(inner.verdicts()) == {("llama-w4", "prune-collapses"), ("llama-w4", "stopword-shift")}


def test_several_policies_leave_a_record_each(inner: Inner, policy_file: Path) -> None:
    other = inner.pytester.mkdir("other") / "audit.swaudit.toml"
    other.write_text('[[model]]\nsource = "llama-w4"\n')
    options = ("--sw-audit-no-report", "-k", "prune", "--tb=no", "--sw-audit-out=out")
    inner.audit("llama-w4", options=(*options, str(policy_file), str(other)))
    assert list_files(inner.pytester.path / "out") == [
        "audit-2/record.json",
        "audit/record.json",
        "models/record.json",
    ]
    first = inner.record("out/audit/record.json")
    assert len(first.models) == 2
    assert first.origin is not None
    assert (first.origin.path, first.origin.whole) == ("audit.swaudit.toml", True)
    assert inner.record("out/models/record.json").origin is None
    assert len(inner.noted("measure")) == 4


def test_no_folder_is_made_where_nothing_was_audited(inner: Inner) -> None:
    inner.audit("llama-w4", options=("-k", "no-such-check"))
    inner.audit("llama-w4", options=("--collect-only",))
    inner.audit("gone")
    inner.audit("no-such-option", options=("--sw-audit-seed=-1",))
    assert not (inner.pytester.path / "sw-audit-out").exists()


@pytest.mark.parametrize(
    ("model", "by"),
    [("interrupt", "Ctrl-C"), ("ctrl-c", "Ctrl-C"), ("sigterm", "SIGTERM")],
    ids=["at once", "after the step", "SIGTERM"],
)
def test_a_run_that_is_stopped_leaves_a_whole_record(inner: Inner, model: str, by: str) -> None:
    models = (f"--sw-audit-model={name}" for name in ("broken", model, "llama-w4"))
    run = inner.run(*models, "--tb=no", "--sw-audit-save=mine", no_reraise_ctrlc=True)
    assert run.ret == 2
    reason = f"the run was stopped by {by}"
    run.stdout.fnmatch_lines(
        [
            f"sw-audit: {reason}; what is not decided is inconclusive",
            f"sw-audit: baseline 'mine' was not kept, for {reason}",
            "record: sw-audit-out/record.json",
        ]
    )
    assert list_files(inner.pytester.path / "sw-audit-out") == ["record.json", "report.html"]
    done, *others = inner.record().models
    assert (done.id, len(done.verdicts), done.stopped) == ("broken", CHECKS, None)
    assert [(one.id, one.stopped) for one in others] == [(model, reason), ("llama-w4", reason)]
    assert [verdict.status for one in others for verdict in one.verdicts] == [Status.INCONCLUSIVE] * 2 * CHECKS


def test_a_run_whose_time_is_up_goes_to_the_end_and_the_rest_is_inconclusive(inner: Inner) -> None:
    run = inner.audit("slow", "llama-w4", options=("--sw-audit-budget=0.3s", "--tb=no"))
    run.assert_outcomes(failed=2 * CHECKS)
    run.stdout.fnmatch_lines([f"*= sw-audit: {2 * CHECKS} inconclusive =*"])
    assert {model.stopped for model in inner.record().models} == {"the run was stopped after its budget of 0 s"}


def test_what_handles_signals_does_so_again_when_a_model_was_measured(inner: Inner) -> None:
    before = signal.getsignal(signal.SIGTERM)
    path = inner.pytester.makepyfile(
        """
        import signal
        def test_it(sw_measurements):
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        """
    )
    inner.audit("llama-w4", options=("-k", "test_it", str(path))).assert_outcomes(passed=1, deselected=CHECKS)
    assert signal.getsignal(signal.SIGTERM) == before


def test_pytest_exit_and_an_internal_error_leave_no_record(inner: Inner) -> None:
    path = inner.pytester.makepyfile("import pytest\ndef test_mine(): pytest.exit('enough')\n")
    inner.audit("llama-w4", options=(str(path),))
    inner.pytester.makeconftest(
        "def pytest_runtest_logfinish(nodeid):\n    if 'mine' in nodeid: raise ValueError\n"
    )
    path.write_text("def test_mine(): pass\n")
    run = inner.audit("llama-w4", options=(str(path),))
    assert run.ret == 3
    assert not (inner.pytester.path / "sw-audit-out").exists()


def test_stopping_at_a_failure_is_no_interruption(inner: Inner) -> None:
    inner.audit("broken", "llama-w4", options=("-x", "--tb=no"))
    record = inner.record()
    assert len(record.verdicts) == CHECKS
    message = "not audited: the run ended before this model was reached"
    [failure] = record.failures
    assert (failure.model, failure.message, len(failure.checks)) == ("llama-w4", message, CHECKS)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(inner: Inner, place: str) -> None:
    inner.pytester.makefile("", file="")
    run = inner.audit("llama-w4", options=(f"--sw-audit-out={place}",))
    assert run.ret == 4
    assert len([line for line in run.errlines if line]) == 1
    run.stderr.fnmatch_lines([f"ERROR: output folder *{place}*"])
    assert inner.noted("measure") == []


def test_a_page_that_cannot_be_drawn_does_not_cost_the_record(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_DEFECT", "render")
    run = inner.audit("llama-w4")
    assert run.ret == 4
    run.stdout.fnmatch_lines(
        ["sw-audit: ZeroDivisionError: a defect of the page", "*record: sw-audit-out/record.json"]
    )
    assert list_files(inner.pytester.path / "sw-audit-out") == ["record.json"]


def test_a_conftest_can_change_the_record_and_hears_where_it_lies(inner: Inner) -> None:
    inner.pytester.makeconftest(
        """
        def pytest_sw_audit_modify_record(config, record):
            environment = record.environment.model_copy(update={"platform": "withheld"})
            return record.model_copy(update={"environment": environment})

        def pytest_sw_audit_recorded(config, record, files, trouble):
            print("heard", record.environment.platform, ','.join(files), files["report"].exists(), trouble)
        """
    )
    run = inner.audit("llama-w4", options=("-s", "-k", "prune"))
    run.stdout.fnmatch_lines(["*heard withheld record,report True None"])
    assert inner.record().environment.platform == "withheld"


def test_what_is_written_names_no_home_unless_it_is_asked_for(inner: Inner) -> None:
    model = inner.pytester.path / "models" / "llama"
    model.mkdir(parents=True)
    options = ("--sw-audit-check=prune-collapses", "--junitxml=cases.xml")
    run = inner.audit(f"w4={model}", options=options)
    run.stdout.fnmatch_lines(["redacted: own home folder *"])
    assert inner.policy()["model"][0]["source"] == "~/models/llama"
    assert str(model) not in (inner.pytester.path / "cases.xml").read_text(encoding="utf-8")
    inner.audit(f"w4={model}", options=(*options, "--sw-audit-no-redaction"))
    assert inner.policy()["model"][0]["source"] == str(model)


def test_what_a_conftest_puts_into_the_record_is_redacted_too(inner: Inner) -> None:
    inner.pytester.makeconftest(
        """
        def pytest_sw_audit_modify_record(config, record):
            environment = record.environment.model_copy(update={"platform": "hf_" + 34 * "a"})
            return record.model_copy(update={"environment": environment})
        """
    )
    inner.audit("llama-w4", options=("-k", "prune"))
    assert inner.record().environment.platform == "<secret>"
    assert [one.kind for one in inner.record().redacted] == ["secret"]


def test_a_secret_in_a_waiver_stands_in_no_test_case(inner: Inner) -> None:
    secret = "hf_" + 34 * "a"
    waiver = f'check = "prune-collapses"\nmodel = "*"\nuntil = 2999-01-01\nowner = "Ada"\nreason = "{secret}"\n'
    inner.pytester.makefile(".toml", policy=f"[[waiver]]\n{waiver}")
    options = ("--sw-audit-policy=policy.toml", "--sw-audit-check=prune-collapses", "--junitxml=cases.xml")
    inner.audit("broken", options=options)
    cases = (inner.pytester.path / "cases.xml").read_text(encoding="utf-8")
    assert "Ada" in cases
    assert secret not in cases
