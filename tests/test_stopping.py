from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import pytest

from sw_audit.progress import ignore_progress
from sw_audit.stopping import (
    SignalError,
    StoppedError,
    Stopper,
    deferring_interrupts,
    ignoring_interrupts,
    raising_signals,
)

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Whatever a test leaves behind, the handlers are put back."""
    before = {number: signal.getsignal(number) for number in HEEDED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop(stopper: Stopper) -> str:
    with pytest.raises(StoppedError) as caught:
        stopper.watch(ignore_progress)("measuring", 1, 2)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def test_without_a_reason_progress_is_passed_on() -> None:
    seen = []
    stopper = Stopper(budget=3600)
    stopper.watch(lambda *step: seen.append(step))("measuring", 1, 2)
    assert seen == [("measuring", 1, 2)]
    assert stopper.reason is None


def test_when_the_time_is_up_every_call_ends_the_work() -> None:
    stopper = Stopper(300, started=time.monotonic() - 301)
    assert stop(stopper) == stop(stopper) == "the run was stopped after its budget of 5 min"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_ends_the_work_at_the_next_call_and_not_before(number: signal.Signals, name: str) -> None:
    told: list[str] = []
    stopper = Stopper()
    with stopper.heeding_signals(told.append):
        signal.raise_signal(number)
        assert stop(stopper) == f"the run was stopped by {name}"
    assert told == [f"{name}: stopping after this step; Ctrl-C (again) ends at once"]
    assert stopper.reason is not None


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not() -> None:
    stopper = Stopper()
    with stopper.heeding_signals():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopper.reason == "the run was stopped by SIGTERM"


def test_what_handled_signals_before_does_so_again_and_what_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stopper = Stopper()
    with stopper.heeding_signals():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert stopper.reason is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ignoring_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_no_handler_changes() -> None:
    seen = []

    def work() -> None:
        with Stopper().heeding_signals(), ignoring_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_a_signal_that_came_to_one_process_is_heeded_by_those_that_share_it() -> None:
    first = Stopper()
    second = Stopper(signalled=first.signalled)
    with first.heeding_signals():
        signal.raise_signal(signal.SIGTERM)
    assert second.reason == "the run was stopped by SIGTERM"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_ends_a_command_goes_through_every_block_on_the_way_out(
    number: signal.Signals, code: int
) -> None:
    left: list[str] = []

    def work() -> None:
        with raising_signals(), ExitStack() as stack:
            stack.callback(left.append, "cleaned up")
            signal.raise_signal(number)

    with pytest.raises(SignalError) as caught:
        work()
    assert (caught.value.code, str(caught.value)) == (code, f"ended by {number.name}")
    assert left == ["cleaned up"]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_within_a_run_that_ends_after_a_step_no_signal_is_raised_and_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopper = Stopper()
    with raising_signals(), stopper.heeding_signals():
        signal.raise_signal(signal.SIGHUP)
        assert stopper.reason is None
        signal.raise_signal(signal.SIGTERM)
    assert stopper.reason == "the run was stopped by SIGTERM"


def interrupt(times: int, done: list[str]) -> None:
    """Press Ctrl-C so often while a step is done, and note how far it comes."""
    with deferring_interrupts(ignore_progress) as tell:
        tell("measuring", 1, 2)
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
            done.append("went on")
        tell("measuring", 2, 2)
        done.append("next step")


def test_ctrl_c_waits_for_progress_and_the_second_does_not() -> None:
    for times, expected in ((0, ["next step"]), (1, ["went on"]), (2, ["went on"])):
        done: list[str] = []
        with nullcontext() if times == 0 else pytest.raises(KeyboardInterrupt):
            interrupt(times, done)
        assert done == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_after_the_last_step_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), deferring_interrupts(ignore_progress):
        signal.raise_signal(signal.SIGINT)


def test_who_takes_ctrl_c_for_something_else_goes_on_doing_so() -> None:
    stopper = Stopper()
    with stopper.heeding_signals(), deferring_interrupts(ignore_progress) as tell:
        signal.raise_signal(signal.SIGINT)
        tell("measuring", 1, 2)
    assert stopper.reason == "the run was stopped by Ctrl-C"
