"""Several jobs that call one model side by side, so that a layer that is read as it runs is read once for all.

Each job has a thread, and no two run at once. Before each decoder layer a job waits until all others have come to
a layer too; then the layer is brought into memory, and those that wait for it pass. A job knows nothing of it:
what the library does between the layers, such as keeping a cache, is its own code, so that all figures are the
same to the last bit as if each had run alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from sw_audit.checkpoint.opening import Checkpoint

Result = TypeVar("Result")


def run_side_by_side(checkpoint: Checkpoint, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run jobs that call a model, and return what each returns, or raise what the first of them in order raises.

    A model that is in memory runs one job after the other.
    """
    if len(jobs) < 2 or not checkpoint.is_streamed:
        return [job() for job in jobs]
    running = [_Job(job, checkpoint.model) for job in jobs]
    with ExitStack() as stack:
        for layer in checkpoint.layers:
            hook = layer.module.register_forward_pre_hook(partial(_wait_before, layer.index), prepend=True)
            stack.callback(hook.remove)
        for job in running:
            stack.callback(job.end)
        _let_go_on(running, running)
        while any(job.before is not None for job in running):
            for layer in checkpoint.layers:
                if waiting := [job for job in running if job.before == layer.index]:
                    with layer.present():
                        _let_go_on(waiting, running)
    if (error := running[-1].error) is not None:
        raise error
    return [job.result for job in running]


def in_this_job(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of a module that does nothing where another job calls the module."""
    own = threading.get_ident()
    return lambda *given, **named: hook(*given, **named) if threading.get_ident() == own else None


def _let_go_on(waiting: Sequence[_Job[Any]], running: list[_Job[Any]]) -> None:
    """Let jobs go on; when one has failed, nobody will want those that come after it."""
    for job in list(waiting):
        if job in running:
            job.go_on()
            if job.error is not None:
                del running[running.index(job) + 1 :]


class _EndedError(BaseException):
    """Ends a job that is no longer wanted."""


class _Job(threading.Thread, Generic[Result]):
    """A thread that runs only between `go_on` and the next layer. `before` is the layer that it waits for."""

    result: Result

    def __init__(self, job: Callable[[], Result], model: Any) -> None:
        super().__init__(name="sw-audit job")
        self._model = model
        # Earlier versions of transformers have nothing to ask.
        self._get_experts: Callable[[], Any] = getattr(model, "get_experts_implementation", dict)
        self.before: int | None = None
        self.error: BaseException | None = None
        self._wanted = True
        self._job = job
        self._its_turn, self._our_turn = threading.Semaphore(0), threading.Semaphore(0)
        # Threads have their own of these.
        self._context, self._with_gradients = copy_context(), torch.is_grad_enabled()
        self._threads = torch.get_num_threads()

    def go_on(self) -> None:
        """Let it run to its next layer or its end."""
        self.before = None
        if self.ident is None:
            self.start()
        self._its_turn.release()
        self._our_turn.acquire()

    def end(self) -> None:
        """Let it run no further than to its next layer."""
        self._wanted = False
        self._its_turn.release()
        if self.ident is not None:
            self.join()

    def wait_before(self, layer: int) -> None:
        # On a GPU `generate` sets it for as long as it decodes, and others may not have come so far.
        experts = self._get_experts()
        self.before = layer
        self._our_turn.release()
        self._its_turn.acquire()
        if self._get_experts() != experts:
            self._model.set_experts_implementation(experts)
        if not self._wanted:
            raise _EndedError

    def run(self) -> None:
        self._its_turn.acquire()
        try:
            torch.set_num_threads(self._threads)
            with torch.set_grad_enabled(self._with_gradients):
                self.result = self._context.run(self._job)
        except BaseException as error:
            self.error = error
        finally:
            self._our_turn.release()


def _wait_before(layer: int, *_: Any) -> None:
    thread = threading.current_thread()
    if isinstance(thread, _Job):
        thread.wait_before(layer)
