"""The comment on a pull or merge request that says what an audit found: posted once, then updated.

    python -m sw_audit.ci.comment sw-audit-out/comment.md --key my-audit

The standard library is enough for it. A service that refuses, is slow or answers nonsense ends it in one line and
exit code 0: the verdict of a gate is not that of its comment.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sw_audit.printable import printable

PATIENCE = 20.0
"""Seconds that one answer may take."""
BUDGET = 60.0
"""Seconds for everything."""
LARGEST_ANSWER = 16 * 2**20
LONGEST = 65_000
"""Characters of a comment; GitHub takes 65,536."""
_PAGE = 100
_NO_RECORD = "**sw-audit ended without a result.** The log of the run says why."
_FORBIDDEN = 403


class NoCommentError(Exception):
    """There is no comment, and why, in one line; `code` is what the service answered, if it did."""

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


class _NothingToDoError(Exception):
    """The job belongs to no pull or merge request."""


class _NoRedirects(HTTPRedirectHandler):
    """Follows none: the token is for the address that the service named, and for no other."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Leave the answer as it is, which is an error then."""


_OPENER = build_opener(_NoRedirects)


@dataclass(frozen=True)
class Thread:
    """The comments of one pull or merge request.

    Attributes:
        service: What runs the job, for messages.
        api: The address of the service's REST API.
        comments: Where under it the comments are listed and posted.
        comment: Where under it one comment is, up to its number.
        verb: The HTTP method that updates one.
        author: The field of a comment that holds who wrote it.
        headers: What every request carries, the token among it.
        advice: What to do when the token is refused.
        footer: Commit, run and report, in Markdown.
        deadline: On the clock `time.monotonic`.
    """

    service: str
    api: str
    comments: str
    comment: str
    verb: str
    author: str
    headers: Mapping[str, str] = field(repr=False)
    advice: str
    footer: str
    deadline: float

    def publish(self, body: str, marker: str) -> str:
        """Update the comment that begins with the marker, or post it; return where it is.

        Raises:
            NoCommentError: If the service does not take it.
        """
        number = self._find(marker)
        verb, path = ("POST", self.comments) if number is None else (self.verb, f"{self.comment}/{number}")
        answer, _ = self._call(verb, path, {"body": body})
        place = answer.get("html_url") if isinstance(answer, dict) else None
        return f"{'updated' if number is not None else 'posted'} {place or ''}".rstrip()

    def _find(self, marker: str) -> int | None:
        """Return the number of our comment: the marker is seen by everybody, so its author must be us, too."""
        me = self._find_self()
        page, more = 0, True
        while more:
            page += 1
            found, more = self._call("GET", f"{self.comments}?per_page={_PAGE}&page={page}")
            for comment in found if isinstance(found, list) else [None]:
                if not (isinstance(comment, dict) and isinstance(comment.get("id"), int)):
                    raise NoCommentError(f"{self.service} answered with something else than comments")
                if str(comment.get("body") or "").startswith(marker) and _is_by(me, comment.get(self.author)):
                    return int(comment["id"])
        return None

    def _find_self(self) -> int | None:
        """Return who the token belongs to; the token of a GitHub job belongs to an app and may not ask."""
        try:
            answer, _ = self._call("GET", "user")
        except NoCommentError as error:
            if error.code == _FORBIDDEN:
                return None
            raise
        number = answer.get("id") if isinstance(answer, dict) else None
        if not isinstance(number, int):
            raise NoCommentError(f"{self.service} does not say whose token it is")
        return number

    def _call(self, verb: str, path: str, content: object = None) -> tuple[Any, bool]:
        """Return the answer, and whether it has another page."""
        data = None if content is None else json.dumps(content).encode()
        headers = {**self.headers, "Content-Type": "application/json", "User-Agent": "sw-audit"}
        request = Request(f"{self.api}/{path}", data, headers, method=verb)  # noqa: S310 - _require_http has looked
        asked = f"{self.service} to {verb} {path.partition('?')[0]}"
        try:
            with _OPENER.open(request, timeout=self._left(PATIENCE)) as response:
                text = b""
                while part := response.read1(65_536):
                    text += part
                    if len(text) > LARGEST_ANSWER:
                        raise NoCommentError(f"the answer of {asked} does not end")
                    self._left(PATIENCE)
                return json.loads(text), 'rel="next"' in response.headers.get("Link", "")
        except HTTPError as error:
            advice = f"; {self.advice}" if error.code in (401, 403, 404) else ""
            raise NoCommentError(f"{error.code} {error.reason} from {asked}{advice}", error.code) from error
        except ValueError as error:
            raise NoCommentError(f"no JSON from {asked}") from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise NoCommentError(f"no answer from {asked}: {reason or type(error).__name__}") from error

    def _left(self, longest: float) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NoCommentError(f"{self.service} takes longer than {BUDGET:.0f} s")
        return min(left, longest)


def _is_by(me: int | None, author: object) -> bool:
    if not isinstance(author, dict):
        return False
    return author.get("type") == "Bot" if me is None else author.get("id") == me


def find_thread(variables: Mapping[str, str]) -> Thread:
    """Find the pull or merge request that a job is run for, by the variables that its service sets.

    Raises:
        NoCommentError: If there is none, or no token.
    """
    try:
        if variables.get("GITHUB_ACTIONS") == "true":
            return _find_pull_request(variables)
        if variables.get("GITLAB_CI") == "true":
            return _find_merge_request(variables)
    except KeyError as error:
        raise NoCommentError(f"the variable {error.args[0]} is not set") from error
    raise NoCommentError("neither GitHub Actions nor GitLab CI runs this")


def _find_pull_request(variables: Mapping[str, str]) -> Thread:
    try:
        event = json.loads(Path(variables["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
        pull = event.get("pull_request") or {}
        issue = event.get("issue") or {}
        number = pull.get("number") or (issue.get("number") if "pull_request" in issue else None)
        commit = str(pull.get("head", {}).get("sha") or variables["GITHUB_SHA"])
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise NoCommentError(f"the event of the run cannot be read: {error}") from error
    if not isinstance(number, int):
        raise _NothingToDoError("the run belongs to no pull request")
    repository = f"repos/{quote(variables['GITHUB_REPOSITORY'])}"
    site = f"{variables['GITHUB_SERVER_URL']}/{variables['GITHUB_REPOSITORY']}"
    run = f"{site}/actions/runs/{variables['GITHUB_RUN_ID']}"
    report = variables.get("SW_AUDIT_REPORT_URL")
    return Thread(
        service="GitHub",
        api=_require_http(variables["GITHUB_API_URL"]),
        comments=f"{repository}/issues/{number}/comments",
        comment=f"{repository}/issues/comments",
        verb="PATCH",
        author="user",
        headers={
            "Authorization": f"Bearer {_require_token(variables, 'GITHUB_TOKEN')}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        advice="the job needs `permissions: pull-requests: write`, which a pull request from a fork does not get",
        footer=_write_footer(commit, run, report),
        deadline=time.monotonic() + BUDGET,
    )


def _find_merge_request(variables: Mapping[str, str]) -> Thread:
    number = variables.get("CI_MERGE_REQUEST_IID")
    if not number:
        raise _NothingToDoError("the job belongs to no merge request")
    notes = f"projects/{quote(variables['CI_MERGE_REQUEST_PROJECT_ID'])}/merge_requests/{quote(number)}/notes"
    job = variables["CI_JOB_URL"]
    return Thread(
        service="GitLab",
        api=_require_http(variables["CI_API_V4_URL"]),
        comments=notes,
        comment=notes,
        verb="PUT",
        author="author",
        headers={"PRIVATE-TOKEN": _require_token(variables, "SW_AUDIT_TOKEN")},
        advice="SW_AUDIT_TOKEN has to be an access token of the project with the scope api",
        footer=_write_footer(variables["CI_COMMIT_SHA"], job, f"{job}/artifacts/browse"),
        deadline=time.monotonic() + BUDGET,
    )


def _require_token(variables: Mapping[str, str], name: str) -> str:
    token = variables.get(name, "")
    if not token.isascii() or not token.isprintable() or not token:
        raise NoCommentError(f"{name} holds no token")
    return token


def _require_http(address: str) -> str:
    if urlsplit(address).scheme not in ("http", "https"):
        raise NoCommentError(f"{address} is no address of a REST API")
    return address.rstrip("/")


def _write_footer(commit: str, run: str, report: str | None) -> str:
    links = [f"[run]({run})", *([f"[report]({report})"] if report else [])]
    return " · ".join([f"Commit {commit[:12]}", *links])


def write_marker(key: str) -> str:
    """Write what a comment begins with and nobody sees, and by which it is found again."""
    return f"<!-- sw-audit: {quote(key, safe='')} -->"


def write_body(markdown: str, marker: str, footer: str) -> str:
    """Write a comment: the marker, what was found, and where it is from; cut at a line if it is too long."""
    whole = f"{marker}\n{markdown.strip()}\n\n---\n{footer}\n"
    if len(whole) <= LONGEST:
        return whole
    # What is cut may be inside a fold or a block of code, so nothing can follow it.
    whole = f"{marker}\n*Cut short: the report has all of it.* {footer}\n\n{markdown.strip()}"
    return whole[:LONGEST].rpartition("\n")[0]


def main() -> None:
    """Comment, or say in one line why there is no comment."""
    parser = argparse.ArgumentParser(prog="python -m sw_audit.ci.comment", description="Comment what was found.")
    parser.add_argument("file", type=Path, help="the Markdown of the audit; where there is none, that is said")
    parser.add_argument("--key", default="sw-audit", help="tells the comments of several audits apart")
    options = parser.parse_args()
    try:
        thread = find_thread(os.environ)
        found = (
            options.file.read_text(encoding="utf-8", errors="replace") if options.file.is_file() else _NO_RECORD
        )
        marker = write_marker(options.key)
        print(printable(f"comment: {thread.publish(write_body(found, marker, thread.footer), marker)}"))  # noqa: T201
    except _NothingToDoError as error:
        print(f"comment: {error}")  # noqa: T201
    except (NoCommentError, OSError) as error:
        line = printable(f"sw-audit could not comment: {error}")
        on_github = os.environ.get("GITHUB_ACTIONS") == "true"
        print(f"::warning::{line.replace('%', '%25')}" if on_github else line)  # noqa: T201


if __name__ == "__main__":
    main()
