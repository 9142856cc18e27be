"""The same audit twice is the same record but for its clocks, and its verdicts do not depend on threads."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.program import Program

from sw_audit.runner.run import RECALLED

ASKED = ("audit", "./w4", "--parent=specimen", "--windows=8", "--effort=quick", "--no-cache", "--no-report", "-q")


def tell(program: Program, threads: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the record of a run in a process of its own, its clocks stopped and without the digest of them."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    program.start(*ASKED)
    text = (program.folder / "sw-audit-out/record.json").read_text(encoding="utf-8")
    content, digest, _ = text.partition(',\n  "digest": {')
    assert digest
    return re.sub(r'"(seconds|created)": ("[^"]*"|[\d.e+-]+)', r'"\1": 0', content) + "\n}\n"


def list_statuses(text: str) -> list[Any]:
    return [
        [verdict["check"], verdict["status"]]
        for model in json.loads(text)["models"]
        for verdict in model["verdicts"]
    ]


@pytest.mark.slow
def test_two_runs_give_the_same_bytes_and_one_and_two_threads_the_same_verdicts(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.run("quantize", "specimen", "--recipe=int4/row", "-o", program.folder / "w4", "-q").code == 0
    first, second = (tell(program, 1, monkeypatch) for _ in range(2))
    assert first == second
    assert len(list_statuses(first)) > 10
    assert list_statuses(tell(program, 2, monkeypatch)) == list_statuses(first)


@pytest.mark.slow
def test_two_audits_that_share_a_cache_at_once_say_what_one_says_and_leave_it_whole(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert program.run("quantize", "specimen", "--recipe=int4/row", "-o", program.folder / "w4", "-q").code == 0
    shared = [word for word in ASKED if word != "--no-cache"]

    def audit(place: str) -> str:
        ended = program.start(*shared, f"--out={place}")
        assert (ended.code, ended.complaints) == (alone.code, alone.complaints)
        return (program.folder / place / "record.json").read_text(encoding="utf-8")

    alone = program.start(*ASKED, "--out=alone")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(audit, ("one", "other")))
    expected = list_statuses((program.folder / "alone/record.json").read_text(encoding="utf-8"))
    after = audit("after")
    assert [list_statuses(text) for text in (*both, after)] == [expected] * 3
    assert RECALLED in after
    assert not [path for path in (program.folder / ".sw-audit/cache").rglob("*") if ".tmp" in path.name]
