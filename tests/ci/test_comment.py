"""The comment against a local server: posted once, updated afterwards, and never the reason why a job fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.code_service import SOMEBODY, CodeService, serving

from sw_audit.ci import comment
from sw_audit.ci.comment import LONGEST, write_body, write_marker

MARKER = "<!-- sw-audit: sw-audit -->"


@pytest.fixture(params=["GitHub", "GitLab"])
def service(request: pytest.FixtureRequest) -> Iterator[CodeService]:
    with serving(github=request.param == "GitHub") as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "comment.md"
    path.write_text("### PASSED\n\nAll well.\n")
    return path


class Job:
    """A job of a service: comments, and returns what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = monkeypatch, capsys

    def comment(self, variables: dict[str, str], *arguments: object) -> str:
        with self.patch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("GITHUB_", "GITLAB_", "CI_"))]:
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["comment", *map(str, arguments)])
            comment.main()
        printed, complaints = self.capsys.readouterr()
        assert complaints == ""
        assert printed.count("\n") == 1
        return printed.rstrip("\n")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    return Job(monkeypatch, capsys)


def test_the_first_run_posts_and_the_second_updates_the_same_comment(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    service.add("Nice work!", SOMEBODY)
    assert job.comment(service.variables(tmp_path), file).startswith("comment: posted")
    assert service.requests[-1].startswith("POST ")
    file.write_text("### FAILED\n")
    assert job.comment(service.variables(tmp_path), file).startswith("comment: updated")
    assert service.requests[-1].startswith("PATCH " if service.github else "PUT ")
    first, second = service.bodies
    assert first == "Nice work!"
    assert second.startswith(f"{MARKER}\n### FAILED\n")
    assert "PASSED" not in second
    assert "Commit 0123456789ab · [run](https://example.org/" in second


def test_the_token_goes_where_the_service_wants_it(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    job.comment(service.variables(tmp_path), file)
    name, value = ("authorization", "Bearer ghs_secret") if service.github else ("private-token", "glpat-secret")
    assert service.headers[name] == value


def test_a_comment_is_found_on_a_later_page(service: CodeService, job: Job, file: Path, tmp_path: Path) -> None:
    service.per_page = 2
    for number in range(5):
        service.add(f"comment {number}", SOMEBODY)
    service.add(f"{MARKER}\nold")
    assert "updated" in job.comment(service.variables(tmp_path), file)
    assert len(service.comments) == 6
    assert "All well." in service.bodies[5]
    assert sum("page=" in request for request in service.requests) == 3


def test_what_somebody_else_wrote_is_left_alone_whatever_it_begins_with(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    service.add(f"{MARKER}\n### PASSED, says somebody", SOMEBODY)
    assert "posted" in job.comment(service.variables(tmp_path), file)
    assert service.bodies[0].endswith("says somebody")


def test_two_audits_have_a_comment_each(service: CodeService, job: Job, file: Path, tmp_path: Path) -> None:
    for key in ("w4", "w8", "w4"):
        job.comment(service.variables(tmp_path), file, "--key", key)
    assert [body.partition("\n")[0] for body in service.bodies] == [write_marker("w4"), write_marker("w8")]


def test_a_run_that_left_no_markdown_says_so_in_place_of_an_old_verdict(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    job.comment(service.variables(tmp_path), file)
    job.comment(service.variables(tmp_path), tmp_path / "none.md")
    [body] = service.bodies
    assert "ended without a result" in body
    assert "PASSED" not in body


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502])
def test_a_refusal_is_one_line_that_says_what_to_do_and_fails_nothing(
    service: CodeService, job: Job, file: Path, tmp_path: Path, status: int
) -> None:
    service.refusal = status
    line = job.comment(service.variables(tmp_path), file)
    assert f"sw-audit could not comment: {status} " in line
    assert line.startswith("::warning::") == service.github
    advised = "pull-requests: write" in line or "scope api" in line
    assert advised == (status < 429)
    assert "secret" not in line


def test_a_redirect_is_not_followed_with_the_token(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    with serving(github=True) as other:
        service.refusal, service.location = 302, f"{other.address}/user"
        assert "could not comment: 302" in job.comment(service.variables(tmp_path), file)
        assert other.requests == []


@pytest.mark.parametrize("nonsense", [b"<html>", b"[1]", b'{"a": 1}', b"[{}]", b'[{"id": "1"}]', b"\xff", b"null"])
def test_an_answer_that_makes_no_sense_is_told_in_one_line(
    service: CodeService, job: Job, file: Path, tmp_path: Path, nonsense: bytes
) -> None:
    service.nonsense = nonsense
    assert "sw-audit could not comment: " in job.comment(service.variables(tmp_path), file)


@pytest.mark.parametrize(
    ("patience", "budget", "delay", "told"), [(0.1, 5.0, 0.4, "timed out"), (10.0, 0.3, 0.02, "takes longer than")]
)
def test_a_server_that_is_silent_or_drips_is_given_up(
    service: CodeService,
    job: Job,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
    budget: float,
    delay: float,
    told: str,
) -> None:
    monkeypatch.setattr(comment, "PATIENCE", patience)
    monkeypatch.setattr(comment, "BUDGET", budget)
    service.delay, service.nonsense = delay, b" " * 1000
    assert told in job.comment(service.variables(tmp_path), file)


def test_an_answer_without_an_end_is_given_up(
    service: CodeService, job: Job, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comment, "LARGEST_ANSWER", 10)
    service.nonsense = b" " * 100
    assert "does not end" in job.comment(service.variables(tmp_path), file)


def test_a_server_that_is_not_there_is_told_in_one_line(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    with serving(github=True) as gone:
        pass
    name = "GITHUB_API_URL" if service.github else "CI_API_V4_URL"
    assert "no answer from" in job.comment(service.variables(tmp_path) | {name: gone.address}, file)
    assert "no address" in job.comment(service.variables(tmp_path) | {name: "file:///etc"}, file)


@pytest.mark.parametrize("token", ["", "gh\ns", "gh\u2028"])
def test_a_token_that_is_none_is_not_sent(
    service: CodeService, job: Job, file: Path, tmp_path: Path, token: str
) -> None:
    name = "GITHUB_TOKEN" if service.github else "SW_AUDIT_TOKEN"
    assert f"{name} holds no token" in job.comment(service.variables(tmp_path) | {name: token}, file)
    assert service.requests == []


def test_a_run_of_no_pull_request_has_nothing_to_comment_on(job: Job, file: Path, tmp_path: Path) -> None:
    with serving(github=True) as service:
        for event in ({}, {"pull_request": None}, {"issue": {"number": 4}}, {"pull_request": {"number": "4"}}):
            assert "belongs to no pull request" in job.comment(service.variables(tmp_path, event), file)
        for event in ([], 3, {"pull_request": 3}):
            assert "cannot be read" in job.comment(service.variables(tmp_path, event), file)
        on_issue = {"issue": {"number": 17, "pull_request": {"url": "x"}}}
        assert "posted" in job.comment(service.variables(tmp_path, on_issue), file)
        assert "Commit fedcba987654" in service.bodies[0]
    with serving(github=False) as service:
        variables = service.variables(tmp_path) | {"CI_MERGE_REQUEST_IID": ""}
        assert "belongs to no merge request" in job.comment(variables, file)


def test_a_variable_that_is_missing_and_a_service_that_is_none_are_named(
    service: CodeService, job: Job, file: Path, tmp_path: Path
) -> None:
    variables = service.variables(tmp_path)
    name = "GITHUB_REPOSITORY" if service.github else "CI_JOB_URL"
    assert f"{name} is not set" in job.comment(
        {key: value for key, value in variables.items() if key != name}, file
    )
    assert "neither GitHub Actions nor GitLab CI" in job.comment({}, file)


def test_the_standard_library_is_enough() -> None:
    code = (
        "import sys; before = set(sys.modules); import sw_audit.ci.comment; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "{'sw_audit'}\n"


@given(st.text(), st.text(max_size=80))
def test_a_body_begins_with_a_marker_that_no_key_ends_early(markdown: str, key: str) -> None:
    marker = write_marker(key)
    assert marker.startswith("<!-- ")
    assert marker.index("-->") == len(marker) - 3
    assert "\n" not in marker
    assert write_body(markdown, marker, "from here").startswith(f"{marker}\n")


@given(st.lists(st.text(max_size=2000), min_size=1, max_size=3), st.integers(1, 80_000))
def test_a_body_is_no_longer_than_a_service_takes_and_says_when_it_is_cut(lines: list[str], count: int) -> None:
    markdown = "\n".join(lines * (count // len("\n".join(lines) + "\n") + 1))
    body = write_body(markdown, MARKER, "from here")
    assert len(body) <= LONGEST
    assert "from here" in body
    assert ("Cut short" in body) == (len(f"{MARKER}\n{markdown.strip()}\n\n---\nfrom here\n") > LONGEST)
