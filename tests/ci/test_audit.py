"""The audit of a job: what its variables ask for, and which verdicts fail it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sw_audit.ci import audit
from sw_audit.ci.audit import list_arguments
from sw_audit.errors import InputError

FILES = ["--out=sw-audit-out", "--markdown=sw-audit-out/comment.md", "--sarif=sw-audit-out/sw-audit.sarif"]


@pytest.mark.parametrize(
    ("variables", "options", "targets"),
    [
        ({}, [], []),
        ({"POLICY": "a.swaudit.toml"}, [], ["a.swaudit.toml"]),
        (
            {"POLICY": " a.toml\n", "MODEL": "w4=out/w 4\n\n  out/w8 \n"},
            ["--policy=a.toml"],
            ["w4=out/w 4", "out/w8"],
        ),
        ({"MODEL": "x", "PARENT": "base"}, ["--parent=base"], ["x"]),
        ({"MODEL": "--no-report"}, [], ["--no-report"]),
        (
            {"ARGUMENTS": "--effort quick\n  --corpus 'my text.txt'"},
            ["--effort", "quick", "--corpus", "my text.txt"],
            [],
        ),
        ({"ARGUMENTS": "--corpus $(id)"}, ["--corpus", "$(id)"], []),
    ],
)
def test_variables_become_options_and_models_never_do(
    variables: dict[str, str], options: list[str], targets: list[str]
) -> None:
    named = {f"SW_AUDIT_{name}": value for name, value in variables.items()}
    assert list_arguments(named) == ["audit", *FILES, *options, "--", *targets]


def test_there_is_a_summary_where_the_service_shows_one() -> None:
    assert "--summary" in list_arguments({"GITHUB_STEP_SUMMARY": "summary.md"})


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(InputError, match="SW_AUDIT_ARGUMENTS: No closing quotation; close every quote"):
        list_arguments({"SW_AUDIT_ARGUMENTS": "--corpus 'x"})


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, ended: int | None = None, **variables: str) -> int:
    """Run the job in a folder; `ended` is how the audit ends, by default as it does."""
    monkeypatch.chdir(folder)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if ended is not None:
        monkeypatch.setattr(audit, "_run", lambda _: ended)
    with pytest.raises(SystemExit) as ending:
        audit.main()
    assert isinstance(ending.value.code, int)
    return ending.value.code


@pytest.mark.parametrize(
    ("fail_on", "failing"),
    [("", {1, 2, 3, 70}), ("inconclusive", {1, 2, 3, 70}), ("failed", {1, 2, 70}), ("never", {2, 70})],
)
@pytest.mark.parametrize("code", [0, 1, 2, 3, 70])
def test_a_verdict_fails_the_job_if_it_is_asked_to_and_an_error_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_on: str, failing: set[int], code: int
) -> None:
    ended = run_main(tmp_path, monkeypatch, code, SW_AUDIT_FAIL_ON=fail_on)
    assert ended == (code if code in failing else 0)


@pytest.mark.parametrize(("code", "verdict"), [(0, "passed"), (1, "failed"), (3, "inconclusive"), (70, "error")])
def test_github_is_told_the_verdict_the_code_and_the_files_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, verdict: str
) -> None:
    (tmp_path / "sw-audit-out").mkdir()
    (tmp_path / "sw-audit-out" / "record.json").write_text("{}")
    output = tmp_path / "output"
    output.write_text("before=1\n")
    run_main(tmp_path, monkeypatch, code, GITHUB_OUTPUT=str(output), SW_AUDIT_FAIL_ON="never")
    told = f"verdict={verdict}\nexit-code={code}\nrecord=sw-audit-out/record.json\n"
    assert output.read_text() == f"before=1\n{told}"


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        (
            {"SW_AUDIT_FAIL_ON": "warn"},
            "sw-audit: SW_AUDIT_FAIL_ON warn: that is no verdict; choose inconclusive, ",
        ),
        ({"SW_AUDIT_ARGUMENTS": "'"}, "sw-audit: SW_AUDIT_ARGUMENTS: No closing quotation"),
        ({"SW_AUDIT_MODEL": "no/such/folder"}, "sw-audit: model "),
    ],
)
def test_what_cannot_be_audited_is_one_line_and_leaves_nothing_of_an_earlier_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    complaint: str,
) -> None:
    (tmp_path / "sw-audit-out").mkdir()
    for name in ("comment.md", "sw-audit.sarif"):
        (tmp_path / "sw-audit-out" / name).write_text("PASSED")
    assert run_main(tmp_path, monkeypatch, **variables) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert line.startswith(complaint)
    assert list((tmp_path / "sw-audit-out").iterdir()) == []


def test_the_command_is_shown_as_it_can_be_typed_and_drives_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main(tmp_path, monkeypatch, 0, SW_AUDIT_MODEL="my model\x1b[2J")
    assert capsys.readouterr().out == f"$ sw-audit audit {' '.join(FILES)} -- 'my model\\x1b[2J'\n"


@pytest.mark.parametrize("ended", [0, 1, SystemError("lost")])
def test_github_takes_nothing_that_the_audit_prints_for_a_command_and_listens_again_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: int | Exception
) -> None:
    def end(_: list[str]) -> int:
        sys.stdout.write("::add-mask::FAIL\n")
        if isinstance(ended, Exception):
            raise ended
        return ended

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setattr(audit, "_run", end)
    tokens = set()
    for _ in range(2):
        with pytest.raises((SystemExit, SystemError)):
            audit.main()
        first, *between, last = capsys.readouterr().out.splitlines()
        token = first.removeprefix("::stop-commands::")
        assert last == f"::{token}::"
        assert between[-1] == "::add-mask::FAIL"
        tokens.add(token)
    assert len(tokens) == 2
