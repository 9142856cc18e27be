"""A local server that keeps comments as GitHub and GitLab do, and what their jobs find in the environment."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NUMBER = 17
BOT, SOMEBODY = 41898282, 5
_COMMENTS = re.compile(r"/repos/octo/llama/issues/17/comments|/projects/33/merge_requests/17/notes")
_COMMENT = re.compile(r"(?:/repos/octo/llama/issues/comments|/projects/33/merge_requests/17/notes)/(\d+)")


@dataclass
class CodeService:
    """The server.

    Attributes:
        address: Where it listens.
        github: Whether it is GitHub, whose job tokens may not ask who they are; else GitLab.
        comments: Every comment, in the order in which they were posted.
        requests: Method and path of every request, and the headers of the last.
        refusal: The status that every request gets, if any.
        nonsense: What every request is answered with, if anything.
        delay: Seconds before each part of an answer.
        per_page: How many comments a page holds at most, whatever is asked for.
    """

    github: bool
    address: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    refusal: int = 0
    nonsense: bytes = b""
    location: str = ""
    delay: float = 0
    per_page: int = 100

    def add(self, body: str, author: int = BOT) -> int:
        """Keep a comment and return its number."""
        who = {"id": author, "login": "x", "type": "Bot" if author == BOT else "User"}
        number = 1000 + len(self.comments)
        self.comments.append({"id": number, "body": body, "user" if self.github else "author": who})
        return number

    @property
    def bodies(self) -> list[str]:
        """The texts of all comments."""
        return [comment["body"] for comment in self.comments]

    def answer(self, method: str, path: str, query: str, content: Any) -> tuple[int, Any, bool]:
        """Return status, answer, and whether there is another page."""
        if path == "/user":
            return (
                (403, {"message": "Resource not accessible by integration"}, False)
                if self.github
                else (200, {"id": BOT}, False)
            )
        if _COMMENTS.fullmatch(path) and method == "POST":
            self.add(content["body"])
            return 201, self.comments[-1] | {"html_url": "https://example.org/c/1"}, False
        if _COMMENTS.fullmatch(path) and method == "GET":
            asked = dict(part.split("=") for part in query.split("&"))
            size, page = min(int(asked["per_page"]), self.per_page), int(asked["page"])
            return 200, self.comments[(page - 1) * size : page * size], page * size < len(self.comments)
        found = _COMMENT.fullmatch(path)
        if found and method == ("PATCH" if self.github else "PUT"):
            [comment] = [comment for comment in self.comments if comment["id"] == int(found[1])]
            comment["body"] = content["body"]
            return 200, comment, False
        return 404, {"message": "Not Found"}, False

    def variables(self, folder: Path, event: Any = None) -> dict[str, str]:
        """Return what a job of the pull request finds in its environment."""
        if not self.github:
            return {
                "GITLAB_CI": "true",
                "CI_API_V4_URL": self.address,
                "CI_MERGE_REQUEST_IID": str(NUMBER),
                "CI_MERGE_REQUEST_PROJECT_ID": "33",
                "CI_COMMIT_SHA": "0123456789abcdef",
                "CI_JOB_URL": "https://example.org/job/9",
                "SW_AUDIT_TOKEN": "glpat-secret",
            }
        file = folder / "event.json"
        pull = {"pull_request": {"number": NUMBER, "head": {"sha": "0123456789abcdef"}}}
        file.write_text(json.dumps(pull if event is None else event))
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.address,
            "GITHUB_EVENT_PATH": str(file),
            "GITHUB_REPOSITORY": "octo/llama",
            "GITHUB_RUN_ID": "9",
            "GITHUB_SERVER_URL": "https://example.org",
            "GITHUB_SHA": "fedcba9876543210",
            "GITHUB_TOKEN": "ghs_secret",
        }


@contextmanager
def serving(*, github: bool) -> Iterator[CodeService]:
    """Run the server in a thread."""
    service = CodeService(github)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            path, _, query = self.path.partition("?")
            service.requests.append(f"{self.command} {self.path}")
            service.headers = {name.lower(): value for name, value in self.headers.items()}
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, more = service.answer(self.command, path, query, json.loads(text) if text else None)
            answer = service.nonsense or json.dumps(content).encode()
            time.sleep(service.delay)
            self.send_response(service.refusal or status)
            self.send_header("Content-Length", str(len(answer)))
            if more:
                self.send_header("Link", f'<{service.address}{path}?page=2>; rel="next", <x>; rel="last"')
            if service.location:
                self.send_header("Location", service.location)
            self.end_headers()
            for place in range(len(answer)):
                self.wfile.write(answer[place : place + 1])
                time.sleep(service.delay)

        do_GET = do_POST = do_PATCH = do_PUT = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # who asked may have gone
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
