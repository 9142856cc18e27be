from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.fake_runner import CHECKS, count_statuses
from support.program import Program

from sw_audit.record import store
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import read_record
from sw_audit.record.verdict import Status
from sw_audit.runner.options import FORMATS

PASSED = f"PASSED: {CHECKS} pass"
POLICY = '[[model]]\nsource = "models/llama-w4"\n'


def test_a_model_that_passes_ends_with_0_a_table_and_three_files(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4")
    assert ending.code == 0
    assert ending.err == ""
    rows = [line.split() for line in ending.out.splitlines()]
    assert sum(row[:1] == ["llama-w4"] and "PASS" in row for row in rows) == CHECKS
    assert ["llama-w4", "prune-collapses", "PASS", "213.6", "[211,", "216.2]", "10"] in rows
    assert "super weight model.layers.1.mlp.down_proj.weight[37, 211] = -1.927, share 0.973" in ending.out
    assert ending.out.splitlines()[-1] == PASSED
    assert quick.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


def test_a_failed_check_ends_with_1_and_is_told_in_full(quick: Program) -> None:
    ending = quick.run("audit", "broken", "--check", "prune-collapses", "--check", "stopword-shift")
    assert ending.code == 1
    assert "FAIL broken prune-collapses: perplexity ratio 1.72 [1.699, 1.741], limit 10" in ending.out
    for label in ("claimed", "measured", "limit", "because", "where", "protocol", "to do"):
        assert re.search(rf"^  {label}\b", ending.out, re.MULTILINE)
    assert ending.out.splitlines()[-1] == "FAILED: 1 pass, 1 fail"
    for noise in ("test session starts", "collected", "[100%]", "FAILURES", "rootdir", "::", ".py"):
        assert noise not in ending.out + ending.err


def test_a_doubt_ends_with_3_unless_it_is_only_to_warn_or_something_fails(quick: Program) -> None:
    doubtful = quick.run("audit", "short", "--check=prune-collapses")
    assert doubtful.code == 3
    assert "INCONCLUSIVE short prune-collapses" in doubtful.out
    assert doubtful.out.splitlines()[-1] == "INCONCLUSIVE: 1 inconclusive"
    assert quick.run("audit", "short", "--check=prune-collapses", "--inconclusive=warn").code == 0
    assert quick.run("audit", "short", "broken", "--check=prune-collapses").code == 1


def test_where_every_check_is_skipped_nothing_was_audited(quick: Program) -> None:
    ending = quick.run("audit", "control", "--expect=any", "--check=prune-collapses")
    assert ending.code == 3
    assert ending.out.splitlines()[-1] == "NOTHING AUDITED: 1 skipped"


def test_a_model_that_is_in_no_index_passes_and_is_told_why_one_check_was_skipped(quick: Program) -> None:
    ending = quick.run("audit", "unlisted")
    assert (ending.code, ending.err) == (0, "")
    rows = [line.split() for line in ending.out.splitlines()]
    assert ["unlisted", "matches-published-index", "SKIPPED", "-", "-"] in rows
    [reason] = [line for line in ending.out.splitlines() if line.startswith("skipped ")]
    assert reason.startswith(
        "skipped unlisted matches-published-index: There is nothing to compare with: the index"
    )
    assert ending.out.splitlines()[-1] == f"PASSED: {CHECKS - 1} pass, 1 skipped"
    assert quick.run("audit", "unlisted", "-q").out == f"PASSED: {CHECKS - 1} pass, 1 skipped\n"


def test_checks_that_are_skipped_for_one_reason_are_told_of_together(quick: Program) -> None:
    ending = quick.run("audit", "control", "--expect=none")
    reasons = [line for line in ending.out.splitlines() if line.startswith("skipped ")]
    skipped = count_statuses("control")[Status.SKIPPED]
    assert len(reasons) == 4
    assert f"skipped control {skipped - 3} checks: No super weight was located" in "\n".join(reasons)
    verbose = quick.run("audit", "control", "--expect=none", "-v").out
    assert not any(line.startswith("skipped ") for line in verbose.splitlines())


def test_the_table_fits_a_log_of_120_columns(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4", "a-rather-long-name-of-a-checkpoint-w4")
    lines = [line for line in ending.out.splitlines() if "PASS " in line]
    assert len(lines) == 2 * CHECKS
    assert max(len(line) for line in lines) <= 120
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


def test_what_is_expected_decides_on_a_model_without_a_super_weight(quick: Program) -> None:
    some = quick.run("audit", "control", "--expect=some")
    assert some.code == 1
    assert re.search(r"to do .*expect", some.out)
    assert quick.run("audit", "control").code == 0
    assert quick.run("audit", "control", "--expect=none").code == 0
    assert quick.run("audit", "control", "--expect=any").code == 0


def test_a_model_that_cannot_be_used_is_one_line_ends_with_2_and_does_not_stop_the_others(quick: Program) -> None:
    complaint = "sw-audit: model 'gone': model.safetensors is truncated; copy it again"
    alone = quick.run("audit", "gone")
    assert (alone.code, alone.out, alone.err) == (2, "", f"{complaint}\n")
    assert quick.files() == []
    ending = quick.run("audit", "gone", "llama-w4")
    assert (ending.code, ending.complaints) == (2, [complaint])
    assert ending.out.splitlines()[-1] == f"NOT COMPLETE: {CHECKS} pass"
    assert [model.id for model in quick.record().models] == ["gone", "llama-w4"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--debug", "audit", "gone"), 2, ("CheckpointError", "run_model")),
        (("--debug", "audit", "defect"), 70, ("ZeroDivisionError: a defect that nobody foresaw", "run_model")),
    ],
    ids=["input", "defect"],
)
def test_in_debugging_any_error_of_a_model_shows_its_traceback(
    quick: Program, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    ending = quick.run(*arguments, "--check=prune-collapses")
    assert ending.code == code
    assert all(word in ending.err for word in words)


def test_a_run_that_ends_at_once_is_one_line_ends_with_2_and_leaves_the_record_as_it_stood(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4", "interrupt", "llama-w8")
    assert (ending.code, ending.out, ending.err) == (2, "", "sw-audit: interrupted\n")
    assert quick.files() == ["sw-audit-out/junit.xml", "sw-audit-out/record.json"]
    done, *others = quick.record().models
    assert (done.id, len(done.verdicts), done.stopped) == ("llama-w4", CHECKS, None)
    assert [model.stopped for model in others] == ["the run did not end"] * 2
    assert {verdict.status for model in others for verdict in model.verdicts} == {Status.INCONCLUSIVE}


def test_a_run_in_which_nothing_could_be_audited_leaves_the_folder_as_it_was(quick: Program) -> None:
    quick.run("audit", "llama-w4", "--no-report")
    before = (quick.folder / "sw-audit-out/record.json").read_bytes()
    assert quick.run("audit", "gone").code == 2
    assert (quick.folder / "sw-audit-out/record.json").read_bytes() == before
    assert quick.run("audit", "gone", "--out=deep/out").code == 2
    assert not (quick.folder / "deep").exists()


def test_a_record_that_the_run_is_held_against_stays_until_the_end(quick: Program) -> None:
    quick.run("audit", "llama-w4")
    before = quick.record()
    assert quick.run("audit", "llama-w4", "interrupt", "--compare=sw-audit-out").code == 2
    assert quick.record() == before
    quick.run("audit", "llama-w4", "--compare=sw-audit-out/record.json")
    assert quick.record().policy.compare == "sw-audit-out/record.json"


def test_a_run_that_was_stopped_is_kept_as_no_baseline(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4", "sigterm", "--save=mine")
    assert ending.code == 3
    assert ending.complaints == [
        "sw-audit: the run was stopped by SIGTERM; what is not decided is inconclusive",
        "sw-audit: baseline 'mine' was not kept, for the run was stopped by SIGTERM",
    ]
    assert quick.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


@pytest.mark.parametrize(("stopped", "by"), [("ctrl-c", "Ctrl-C"), ("sigterm", "SIGTERM")])
def test_a_run_that_is_stopped_leaves_a_whole_record_and_ends_with_3(
    quick: Program, stopped: str, by: str
) -> None:
    ending, reason = quick.run("audit", "llama-w4", stopped, "llama-w8"), f"the run was stopped by {by}"
    assert ending.code == 3
    assert ending.out.splitlines()[-1] == f"INCONCLUSIVE: {CHECKS} pass, {2 * CHECKS} inconclusive"
    done, *others = quick.record().models
    assert isinstance(done, ModelResult)
    for model in others:
        assert isinstance(model, ModelFailure)
        assert model.stopped == reason
        assert [verdict.because for verdict in model.verdicts] == [f"It was not measured, for {reason}."] * CHECKS
    assert quick.run("audit", "broken", stopped).code == 1


def test_a_run_ends_when_its_time_is_up(quick: Program) -> None:
    assert quick.run("audit", "slow", "--budget=0.3s").code == 3
    assert {model.stopped for model in quick.record().models} == {"the run was stopped after its budget of 0 s"}
    assert quick.run("audit", "slow", "--budget=1h").code == 0


def test_the_shortest_time_of_several_policies_counts_for_the_whole_run(quick: Program) -> None:
    for name, budget in (("one", "1h"), ("two", "0.3s")):
        policy = f'budget = "{budget}"\n[[model]]\nsource = "slow-{name}"\n'
        (quick.folder / f"{name}.swaudit.toml").write_text(policy)
    assert quick.run("audit", "one.swaudit.toml", "two.swaudit.toml").code == 3


def test_where_the_work_stands_is_told_with_the_models_where_there_are_several(quick: Program) -> None:
    assert quick.told("audit", "llama-w4", "--no-cache") == ["measuring"]
    told = quick.told("audit", "llama-w4", "llama-w8", "--no-cache")
    assert [line.partition(", ends")[0] for line in told] == [
        "llama-w4: measuring",
        "1 of 2 models done, 1 left",
        "llama-w8: measuring",
        "2 of 2 models done",
    ]
    assert quick.told("audit", "llama-w4", "-q") == []


def test_a_time_that_is_none_is_one_line(quick: Program) -> None:
    ending = quick.run("audit", "llama-w4", "--budget=soon")
    told = "'soon' is no length of time such as 90, 90s, 5min or 1h30min"
    assert (ending.code, ending.err) == (2, f"sw-audit: policy options, key budget: {told}; correct it there\n")


def test_quiet_prints_the_verdict_line_only_and_verbose_every_reason(quick: Program) -> None:
    assert quick.run("audit", "llama-w4", "-q").out == f"{PASSED}\n"
    assert "perplexity 6.25 becomes" not in quick.run("audit", "llama-w4").out
    out = " ".join(quick.run("audit", "llama-w4", "-v").out.split())
    assert "because" in out
    assert "6.25" in out


def test_every_option_reaches_the_policy(quick: Program) -> None:
    quick.run(
        "audit", "w4=models/llama", "--corpus=specimen", "--windows=9", "--dtype=bfloat16", "--device=cuda:1",
        "--expect=any", "--inconclusive=warn", "--seed=5", "--index=i.toml", "--out=here",
        "--junit=j.xml", "--no-report",
    )  # fmt: skip
    policy = quick.policy("here/record.json")
    assert policy["model"][0] | {"dtype": "bfloat16", "device": "cuda:1", "id": "w4"} == policy["model"][0]
    assert (policy["corpus"]["windows"], policy["seed"], policy["index"]) == (9, 5, "i.toml")
    assert (policy["expect"], policy["inconclusive"]) == ("any", "warn")
    assert quick.files() == ["here/record.json", "j.xml"]


def test_a_policy_file_is_audited_by_its_name_and_any_other_name_if_it_stands_alone(quick: Program) -> None:
    for name in ("audit.swaudit.toml", "mine.toml"):
        (quick.folder / name).write_text(POLICY)
        assert quick.run("audit", name, "-q").out == f"{PASSED}\n"
    both = quick.run("audit", "mine.toml", "llama-w8")
    assert (both.code, len(both.complaints)) == (2, 1)
    assert "NAME.swaudit.toml" in both.err


def test_a_policy_for_other_models_is_given_by_option(quick: Program) -> None:
    (quick.folder / "mine.toml").write_text("seed = 7\n")
    quick.run("audit", "llama-w4", "--policy", "mine.toml")
    assert quick.policy()["seed"] == 7


def test_without_arguments_the_models_of_pyproject_are_audited_from_below_too(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = quick.run("audit")
    assert (nothing.code, len(nothing.complaints)) == (2, 1)
    (quick.folder / "pyproject.toml").write_text('[[tool.sw_audit.model]]\nsource = "hub/llama-w4"\n')
    (quick.folder / "sub").mkdir()
    monkeypatch.chdir(quick.folder / "sub")
    assert quick.run("audit", "-q").out == f"{PASSED}\n"


@pytest.mark.parametrize(
    "settings",
    [
        '[tool.pytest]\naddopts = ["-k", "nothing", "--maxfail=1", "--no-such-option"]\n',
        '[tool.pytest.ini_options]\naddopts = "-n 4 -p no:junitxml"\nrequired_plugins = ["no-such"]\n',
        '[tool.pytest]\nminversion = "99"\ntestpaths = ["tests"]\nstrict = true\nsw_audit_expect = "none"\n',
    ],
)
def test_the_pytest_settings_of_the_folder_do_not_matter(
    quick: Program, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    (quick.folder / "pyproject.toml").write_text(settings)
    (quick.folder / "conftest.py").write_text("raise RuntimeError('a conftest that must not be loaded')\n")
    (quick.folder / "test_mine.py").write_text("def test_mine(): assert False\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    assert quick.run("audit", "llama-w4", "-q").out == f"{PASSED}\n"


@pytest.mark.parametrize("option", ["--dtype=int3", "--windows=many", "--bogus", "-n=-1"])
def test_an_option_that_means_nothing_ends_with_2(quick: Program, option: str) -> None:
    ending = quick.run("audit", "llama-w4", option)
    assert ending.code == 2
    assert "Usage: sw-audit audit" in ending.err


def test_a_name_that_two_models_share_is_one_line(quick: Program) -> None:
    ending = quick.run("audit", "a/llama", "b/llama")
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert "ID=SOURCE" in ending.err


def test_a_page_that_cannot_be_drawn_is_a_defect_and_keeps_the_record(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_DEFECT", "render")
    ending = quick.run("audit", "llama-w4")
    assert ending.code == 70
    [complaint] = ending.complaints
    assert complaint.startswith("sw-audit: an error of sw-audit itself, ZeroDivisionError: a defect of the page; ")
    assert quick.files() == ["sw-audit-out/junit.xml", "sw-audit-out/record.json"]


@pytest.mark.parametrize("place", ["file/x.xml", "no/such/x.xml", "folder"])
def test_a_junit_file_that_cannot_be_written_is_told_before_anything_is_measured(
    quick: Program, place: str
) -> None:
    (quick.folder / "file").touch()
    (quick.folder / "folder").mkdir()
    ending = quick.run("audit", "llama-w4", f"--junit={place}")
    assert (ending.code, ending.out, len(ending.complaints)) == (2, "", 1)
    assert quick.files() == ["file"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--badge=folder"], "badge folder: it is a folder; name a file"),
        (["--sarif=x", "--markdown=./x"], "markdown x: the sarif is written there; name another file"),
        (["--text=sw-audit-out/record.json"], "text sw-audit-out/record.json: the record is written there; *"),
        (["--annex=sw-audit-out/junit.xml"], "annex sw-audit-out/junit.xml: the JUnit XML is written there; *"),
        (["--intoto=file/x"], "output folder */file: *"),
        (["--summary"], "a job summary: GITHUB_STEP_SUMMARY names no file, *; leave the option out, or *"),
    ],
)
def test_a_form_that_cannot_be_written_is_told_before_anything_is_measured(
    quick: Program, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (quick.folder / "file").touch()
    (quick.folder / "folder").mkdir()
    ending = quick.run("audit", "llama-w4", *options)
    [complaint] = ending.complaints
    assert (ending.code, ending.out, quick.files()) == (2, "", ["file"])
    assert fnmatch(complaint, f"sw-audit: {told}")


def test_the_record_is_written_in_every_form_that_is_asked_for(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = quick.folder / "summary.md"
    summary.write_text("of the step before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    options = [f"--{form}=new/{form}.out" for form in FORMATS]
    ending = quick.run("audit", "llama-w4", "--no-report", "--summary", *options)
    assert ending.code == 0
    for form in FORMATS:
        page = f"<title>llama-w4 as {form}</title>"
        assert (quick.folder / f"new/{form}.out").read_text() == page
        assert f"{form:<12}new/{form}.out" in ending.out.splitlines()
    assert summary.read_text() == "of the step before\n<title>llama-w4 as markdown</title>\n"


def test_of_several_policies_each_form_goes_into_a_folder_of_its_own(quick: Program) -> None:
    for name, model in (("one", "llama-w4"), ("two", "broken")):
        (quick.folder / f"{name}.swaudit.toml").write_text(f'[[model]]\nsource = "{model}"\n')
    quick.run("audit", "one.swaudit.toml", "two.swaudit.toml", "--no-report", "--sarif=found/x.sarif")
    assert [file for file in quick.files() if file.startswith("found/")] == [
        "found/one/x.sarif",
        "found/two/x.sarif",
    ]


def test_a_form_of_an_earlier_run_stays_where_nothing_could_be_audited(quick: Program) -> None:
    assert quick.run("audit", "llama-w4", "--markdown=x.md").code == 0
    assert quick.run("audit", "gone", "--markdown=x.md").code == 2
    assert (quick.folder / "x.md").read_text() == "<title>llama-w4 as markdown</title>"


def test_several_policies_are_shown_together(quick: Program) -> None:
    for name, model in (("one", "llama-w4"), ("two", "broken")):
        (quick.folder / f"{name}.swaudit.toml").write_text(f'[[model]]\nsource = "{model}"\n')
    ending = quick.run("audit", "one.swaudit.toml", "two.swaudit.toml", "--no-report")
    assert ending.code == 1
    found = count_statuses("llama-w4") + count_statuses("broken")
    assert ending.out.splitlines()[-1] == f"FAILED: {found[Status.PASS]} pass, {found[Status.FAIL]} fail"
    assert [file for file in quick.files() if file.startswith("sw-audit-out/")] == [
        "sw-audit-out/junit.xml",
        "sw-audit-out/one/record.json",
        "sw-audit-out/two/record.json",
    ]


@pytest.mark.parametrize("lasting", [True, False], ids=["from then on", "once"])
def test_a_disk_that_is_full_at_any_write_leaves_whole_files_and_one_line(
    quick: Program, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    asked = ("audit", "llama-w4", "llama-w8", "--save=mine", "--junit=cases.xml", "-q")
    assert quick.run(*asked).code == 0
    names = [*quick.files()]
    assert len(names) == 4
    real, writes, full_at = store._write_draft, [0], [0]

    def write(draft: Path, path: Path, text: str) -> None:
        writes[0] += 1
        if writes[0] == full_at[0] or (lasting and writes[0] > full_at[0]):
            draft.write_text(text[: len(text) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(draft, path, text)

    monkeypatch.setattr(store, "_write_draft", write)
    while writes[0] >= full_at[0]:
        writes[0], full_at[0] = 0, full_at[0] + 1
        shutil.rmtree(quick.folder / ".sw-audit/cache", ignore_errors=True)
        ending = quick.run(*asked)
        told = [line for line in ending.complaints if "No space left on device" in line]
        if lasting and full_at[0] <= writes[0]:
            assert (ending.code, len(told), ending.complaints) == (2, 1, told)
        else:
            assert (ending.code, ending.complaints) == (0, [])
        assert set(quick.files()) <= set(names)
        assert quick.record().models
        assert quick.record(".sw-audit/baselines/mine.json").models
        assert ElementTree.parse(quick.folder / "cases.xml").getroot().tag == "testsuites"  # noqa: S314
        assert not [path for path in quick.folder.rglob("*.tmp") if path.is_file()]
    assert full_at[0] > 8


def test_a_defect_of_one_model_is_one_line_and_a_file_ends_with_70_and_does_not_stop_the_others(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(quick.folder))
    ending = quick.run("audit", "defect", "llama-w4", "--check=prune-collapses")
    assert ending.code == 70
    [line] = ending.complaints
    [file] = quick.folder.glob("sw-audit-error-*.txt")
    assert line == (
        "sw-audit: an error of sw-audit itself, ZeroDivisionError: a defect that nobody foresaw; "
        f"the traceback is in {file}; please report it"
    )
    assert "Traceback (most recent call last)" in file.read_text()
    assert "run_model" in file.read_text()
    assert [model.id for model in quick.record().results] == ["llama-w4"]


def test_a_home_and_a_secret_are_left_out_of_the_record_and_that_is_said(
    quick: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, secret = Path.cwd() / "home", "hf_" + "aB3" * 11
    (home / "models" / "llama-w4").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    Path("it.swaudit.toml").write_text(
        f'[[waiver]]\ncheck = "prune-collapses"\nmodel = "*"\n'
        f'until = "2999-12-31"\nowner = "Ada"\nreason = "the token {secret}"\n'
    )
    for options, left in ((("--no-redaction",), True), ((), False)):
        ending = quick.run("audit", f"{home}/models/llama-w4", "--policy=it.swaudit.toml", *options)
        text = Path("sw-audit-out/record.json").read_text(encoding="utf-8")
        assert (secret in text, str(home) in text) == (left, left)
        assert ("redacted: own home folder once, secret once" in ending.out) is not left
    assert read_record(Path("sw-audit-out/record.json")).policy.models[0].source == "~/models/llama-w4"
