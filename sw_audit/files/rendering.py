"""Renders chat templates in a process of its own, which may take 10 s, 2 GB and no more.

Run as a program: reads a question as JSON, writes a line of JSON per rendering. The sandbox is transformers' own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

SECONDS, MEMORY = 10, 2 * 10**9
LONGEST = 100_000
"""Characters of a rendering that are kept."""


def render_all(question: dict[str, Any]) -> None:
    """Write for each conversation what comes of it: whether it did, and the text or the error."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    _limit()
    try:
        compiled, failure = _compile_jinja_template(question["template"]), ""
    except Exception as error:  # whatever a template makes the library raise
        compiled, failure = None, type(error).__name__
    for conversation in question["conversations"]:
        answer = [False, failure]
        if compiled is not None:
            try:
                fixed = {"strftime_now": lambda _: "the date"}
                answer = [True, compiled.render(**question["variables"], **conversation, **fixed)[:LONGEST]]
            except Exception as error:  # likewise
                answer = [False, type(error).__name__]
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _limit() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    render_all(json.load(sys.stdin))
