"""An object in a process of its own answers calls; whatever ends it is one line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sw_audit.engines.worker import Worker
from sw_audit.errors import EngineError

SOURCE = """
import os, subprocess, sys, time
from sw_audit.engines.worker import RefusedError

class Thing:
    def __init__(self, start):
        if start < 0:
            raise RefusedError("it begins below nought", "begin higher")
        print("chatter of a library")
        self.value = start
    def add(self, more):
        self.value += more
        return self.value
    def fail(self):
        raise KeyError("no such\\nthing")
    def lack(self):
        raise NotImplementedError("it has no such thing")
    def abort(self):
        print("kernel.c:12: GGML_ASSERT(rows > 0) failed\\n", file=sys.stderr, flush=True)
        os.abort()
    def leave(self):
        sys.exit(3)
    def sleep(self):
        time.sleep(60)
    def breed(self):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
    def environment(self, name):
        return os.environ.get(name)
    def grow(self, size):
        return bytes(size)
    def modules(self):
        return sorted(sys.modules)
"""
Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    (tmp_path / "thing.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun: list[Worker] = []

    def start(value: int = 0, timeout: float = 30.0, **environment: str) -> Worker:
        begun.append(Worker("model 'it'", "thing:Thing", {"start": value}, timeout, environment))
        return begun[-1]

    yield start
    for worker in begun:
        worker.close()


def fail(worker: Worker, method: str) -> str:
    with pytest.raises(EngineError) as caught:
        worker.call(method)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_keeps_its_state_between_calls_and_what_it_prints_is_not_seen(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = start(2)
    assert [worker.call("add", 3), worker.call("add", 4)] == [5, 9]
    assert capfd.readouterr() == ("", "")


def test_it_has_the_environment_that_is_asked_for_and_imports_nothing_heavy(start: Start) -> None:
    worker = start(OMP_WAIT_POLICY="passive")
    assert worker.call("environment", "OMP_WAIT_POLICY") == "passive"
    assert not {"torch", "transformers"} & set(worker.call("modules"))


def test_large_answers_come_whole(start: Start) -> None:
    assert worker_size(start(), 50_000_000) == 50_000_000


def worker_size(worker: Worker, size: int) -> int:
    return len(worker.call("grow", size))


def test_what_it_refuses_is_told_in_its_own_words(start: Start) -> None:
    with pytest.raises(EngineError, match="model 'it': it begins below nought; begin higher"):
        start(-1)


def test_an_exception_is_one_line_and_does_not_end_it(start: Start) -> None:
    worker = start()
    assert "KeyError" in fail(worker, "fail")
    with pytest.raises(NotImplementedError, match="it has no such thing"):
        worker.call("lack")
    assert worker.call("add", 1) == 1


@pytest.mark.parametrize(
    ("method", "words"),
    [("abort", "by SIGABRT, and said 'kernel.c:12: GGML_ASSERT(rows > 0) failed'"), ("leave", "with exit code 3")],
)
def test_its_end_is_told_with_its_last_words(start: Start, method: str, words: str) -> None:
    worker = start()
    assert f"its process ended {words}" in fail(worker, method)
    assert "its process ended" in fail(worker, "add")


def test_one_that_is_killed_from_outside_is_one_line(start: Start) -> None:
    worker = start()
    os.kill(worker.process_id, signal.SIGKILL)
    assert "by SIGKILL" in fail(worker, "sleep")


def test_one_that_does_not_answer_in_time_is_ended(start: Start) -> None:
    worker = start(timeout=5.0)
    before = time.monotonic()
    worker._timeout = 1.0
    assert "did not answer within 1 s" in fail(worker, "sleep")
    assert time.monotonic() - before < 5
    assert not psutil.pid_exists(worker.process_id)


def test_what_it_has_started_ends_with_it(start: Start) -> None:
    worker = start()
    child = psutil.Process(worker.call("breed"))
    worker.close()
    worker.close()
    assert "it was closed" in fail(worker, "add")
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_it_ends_when_the_process_that_asked_for_it_is_gone(start: Start) -> None:
    worker = start()
    worker._pipe.close()
    worker._process.wait(10)
    assert worker._process.returncode == 0


def test_a_module_that_cannot_be_imported_is_one_line() -> None:
    with pytest.raises(EngineError, match="ModuleNotFoundError: No module named 'nothing'"):
        Worker("model 'it'", "nothing:Thing", {}, 30.0)
