"""Models spread over a Ray cluster: each is a task, and what comes back is plain JSON.

What is sent to a worker is a function as such, not its name, for sw-audit may be missing there or be another
version: it looks at that first (`_make_remotes`). Then `work` audits the model as any other run does. The tasks
and this process meet at one actor, the board: they write there where they stand, and read whether they are to end.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from sw_audit import __version__
from sw_audit.checks.registry import list_needs
from sw_audit.errors import InputError
from sw_audit.leftovers import temporary_folder
from sw_audit.memory import write_memory
from sw_audit.policy.policy import Policy
from sw_audit.progress import Progress
from sw_audit.record.record import AuditedModel, ModelFailure, ModelResult, Record
from sw_audit.runner import run
from sw_audit.runner.assignments import Assignment, Case
from sw_audit.runner.cache import Cache
from sw_audit.runner.fitting import PROGRAM, find_memory_needed
from sw_audit.runner.pair import Parents
from sw_audit.runner.watching import list_places
from sw_audit.stopping import StoppedError, Stopper

RETRIES = 3
"""So often a model whose worker was lost is begun again."""

_PATIENCE = 60.0
"""Seconds within which a cluster, and each of its nodes, must answer."""
_REMEDY = "give the address of a cluster, with RAY_AUTH_MODE=token where it asks for its token"
_EVERY = 0.5
"""Seconds between two looks at the board."""
_OBJECTS = 100_000_000
"""Bytes of shared memory of a cluster that is started here: what is passed is text."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore",
}
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A cluster of this machine alone, on any system: nothing of it listens on another address than 127.0.0.1."""
_ANSWER: TypeAdapter[ModelResult | ModelFailure] = TypeAdapter(AuditedModel)
_SILENT = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}

Take = Callable[[], ModelResult | ModelFailure]
"""Gives a model that has ended, or raises what ended it."""


@contextmanager
def connect_ray(address: str) -> Iterator[Any]:
    """Give the module of Ray, connected to a cluster for the block.

    Args:
        address: Of a cluster. Empty it is the one that RAY_ADDRESS names, else one is started on this machine.

    Raises:
        InputError: If Ray is not installed, or nothing answers there within a minute.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    with _setting(_QUIET if address else {**_QUIET, **_LOCAL}):
        try:
            import ray
        except ImportError as error:
            raise InputError("--ray", "the package ray is missing", "pip install 'sw-audit[ray]'") from error
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        if address:
            _require_answer(address)
        place = {"address": address} if address else {"address": "local", "object_store_memory": _OBJECTS}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(**place, **_SILENT)
        except (Exception, SystemExit) as error:
            where = f"at {address}" if address else "on this machine"
            found = f"it cannot be used ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            raise InputError(f"Ray {where}", found, "see the logs of its last session") from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        try:
            yield ray
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Complain of an address where no Ray answers; asked by a process of its own, for Ray asks for minutes."""
    asking = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
    try:
        asked = subprocess.run(  # noqa: S603  # this program's own Python
            [sys.executable, "-c", asking], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        found = f"no Ray answers there within {_PATIENCE:.0f} seconds"
        raise InputError(
            f"--ray {address}", found, "give the address of a cluster, or none for one here"
        ) from error
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise InputError(f"--ray {address}", f"no Ray answers there ({said})", _REMEDY)


@contextmanager
def _setting(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass
class RaySpread:
    """Runs models on the cluster that Ray is connected to.

    Attributes:
        ray: The module.
        stopper: Knows when the run is to end.
        cache: Folder of the cache; without one the parents' results alone are passed on.
        show: Gives what shows where a model stands.
    """

    ray: Any
    stopper: Stopper
    cache: Path | None
    show: Callable[[str], AbstractContextManager[Progress]]
    _board: Any = field(init=False)
    _act: Any = field(init=False)

    def __post_init__(self) -> None:
        board, self._act = _make_remotes(self.ray)
        stopper = self.stopper
        left = None if stopper.budget is None else stopper.budget - (time.monotonic() - stopper.started)
        self._board = board.remote(left)

    def require_workers(self, assignments: Sequence[Assignment]) -> None:
        """Complain of nodes on which models cannot be audited.

        Raises:
            InputError: If one has no sw-audit, or another, or lacks a file or folder, or does not answer.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        models = [(one.policy, model) for one in assignments for model in one.policy.models]
        places = {place for policy, model in models for place in list_places(policy, model)}
        order = {**_describe_here(), "paths": sorted(map(str, places))}
        asked = {}
        for node in self._list_nodes():
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[self._act.options(num_cpus=0, scheduling_strategy=pinned).remote(order, None, None)] = node
        ready, late = self.ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE)
        for request in late:
            found = f"it did not answer within {_PATIENCE:.0f} seconds"
            raise InputError(
                f"Ray node {asked[request]['NodeManagerHostname']}", found, "take it out of the cluster"
            )
        for request in ready:
            _read_answer(self.ray.get(request))

    def _list_nodes(self) -> list[Mapping[str, Any]]:
        nodes = [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise InputError(
                "--ray", "no node of the cluster has a processor to give", "start one with `ray start`"
            )
        return nodes

    def __call__(
        self, jobs: Sequence[tuple[Assignment, Case]], started: Callable[[Case], None]
    ) -> Generator[tuple[Case, Take]]:
        """Run models; yield each when it has ended. `started` is told when one begins."""
        room = max(node["Resources"].get("memory", 0) for node in self._list_nodes())
        pending: dict[Any, int] = {}
        parents: dict[Any, Any] = {}
        for number, (assignment, case) in enumerate(jobs):
            resources, needed = _list_resources(assignment, case)
            if needed > room:
                yield case, partial(_refuse, case, needed, int(room))
                continue
            order = self._write_order(number, assignment, case)
            key = _name_parent(assignment, case)
            if key is not None and key not in parents:
                parents[key] = self._submit({**order, "number": -1, "parent": True}, None, resources)
            pending[self._submit(order, parents.get(key), resources)] = number
        shown: dict[int, tuple[Progress, ExitStack]] = {}
        try:
            yield from self._follow(jobs, pending, started, shown)
        finally:
            for _, stack in shown.values():
                stack.close()

    def _submit(self, order: Mapping[str, Any], parent: Any, resources: Mapping[str, Any]) -> Any:
        return self._act.options(max_retries=RETRIES, **resources).remote(order, self._board, parent)

    def _write_order(self, number: int, assignment: Assignment, case: Case) -> dict[str, Any]:
        return {
            **_describe_here(),
            "number": number,
            # What nobody set stays unset: some of it is settled by the model.
            "policy": assignment.policy.model_dump_json(by_alias=True, exclude_unset=True),
            "model": case.model,
            "checks": list(assignment.checks[case.model]),
            "saved": assignment.saved,
            "cache": self.cache and str(self.cache.absolute()),
            "budget": self.stopper.budget,
        }

    def _follow(
        self,
        jobs: Sequence[tuple[Assignment, Case]],
        pending: dict[Any, int],
        started: Callable[[Case], None],
        shown: dict[int, tuple[Progress, ExitStack]],
    ) -> Generator[tuple[Case, Take]]:
        begun, ending = set[int](), False
        while pending:
            ready, _ = self.ray.wait(list(pending), timeout=_EVERY)
            news: Mapping[int, tuple[str, int, int] | None] = {}
            with suppress(self.ray.exceptions.RayError):  # the board is being moved
                news = self.ray.get(self._board.read.remote(self.stopper.signalled.value), timeout=_PATIENCE)
            for number, standing in news.items():
                if number not in begun:
                    begun.add(number)
                    case, stack = jobs[number][1], ExitStack()
                    started(case)
                    shown[number] = stack.enter_context(self.show(case.model)), stack
                if standing is not None and number in shown:
                    shown[number][0](*standing)
            if not ending and self.stopper.reason is not None:
                ending = True
                for request, number in pending.items():
                    if number not in begun:
                        self.ray.cancel(request)
            for request in ready:
                number = pending.pop(request)
                assignment, case = jobs[number]
                if number in shown:
                    shown.pop(number)[1].close()
                yield case, partial(self._take, request, assignment, case)

    def _take(self, request: Any, assignment: Assignment, case: Case) -> ModelResult | ModelFailure:
        exceptions = self.ray.exceptions
        try:
            return _ANSWER.validate_python(_read_answer(self.ray.get(request))["model"])
        except exceptions.RayError as error:
            if isinstance(error, exceptions.TaskCancelledError) and (reason := self.stopper.reason) is not None:
                return run.fail_stopped(assignment.policy, case.model, assignment.checks[case.model], reason)
            if isinstance(error, exceptions.RayTaskError):
                raise
            found = f"its Ray worker was lost, {RETRIES + 1} times over ({type(error).__name__})"
            remedy = "see whether its node has memory enough, and run again"
            raise InputError(f"model {case.model}", found, remedy) from error


def _describe_here() -> dict[str, Any]:
    return {"folder": str(Path.cwd()), "version": __version__, "schema": _SCHEMA}


_SCHEMA = Record.model_fields["schema_number"].default


def _name_parent(assignment: Assignment, case: Case) -> object:
    """Return what tells apart the parents that are asked; `None` for a model by itself."""
    parent = assignment.policy.find_parent(assignment.policy.find_model(case.model))
    checks = assignment.checks[case.model]
    return None if parent is None else (assignment.key, parent.model_dump_json(), frozenset(list_needs(checks)))


def _list_resources(assignment: Assignment, case: Case) -> tuple[dict[str, Any], int]:
    """Return what Ray is to set aside for a model, and the bytes of memory among it, 0 where it is not known."""
    model = assignment.policy.find_model(case.model)
    need = find_memory_needed(assignment.policy, model)
    resources: dict[str, Any] = {"num_cpus": 1}
    if torch.device(model.device).type == "cuda":
        resources["num_gpus"] = 1
    if need is None:
        return resources, 0
    return {**resources, "memory": need + PROGRAM}, need + PROGRAM


def _refuse(case: Case, needed: int, room: int) -> ModelResult | ModelFailure:
    found = (
        f"its audit takes about {write_memory(needed)} of memory, and the largest node has {write_memory(room)}"
    )
    raise InputError(f"model {case.model}", found, "give a budget with --memory, or add a larger node")


def _read_answer(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an answer; one that says what went wrong raises it."""
    if "found" in answer:
        raise InputError(answer["asked"], answer["found"], answer["remedy"])
    if "defect" in answer:
        raise RuntimeError(answer["defect"]) from _RemoteTraceError(answer["trace"])
    return answer


class _RemoteTraceError(Exception):
    """The traceback of an error on a worker, as text."""


def _make_remotes(ray: Any) -> tuple[Any, Any]:
    """Return the board's class and the task; neither refers to this module before it is known to be there."""

    class Board:
        """Where tasks and the command meet."""

        def __init__(self, left: float | None) -> None:
            import time

            self._ends = None if left is None else time.monotonic() + left
            self._signalled = 0
            self._news: dict[int, tuple[str, int, int] | None] = {}

        def begin(self, number: int) -> float | None:
            """Take note that a task begins, and say how many seconds the run has left."""
            import time

            if number >= 0:
                self._news.setdefault(number, None)
            return None if self._ends is None else self._ends - time.monotonic()

        def write(self, number: int, stage: str, done: int, total: int) -> int:
            """Take note of where a task stands, and return the number of the signal that came, else 0."""
            if number >= 0:
                self._news[number] = stage, done, total
            return self._signalled

        def read(self, signalled: int) -> dict[int, tuple[str, int, int] | None]:
            """Return where tasks stand of which there is news."""
            self._signalled = signalled or self._signalled
            news, self._news = self._news, {}
            return news

    def act(order: dict[str, Any], board: Any, parent: Any) -> dict[str, Any]:
        import os
        import platform

        def complain(found: str, remedy: str) -> dict[str, Any]:
            return {"asked": f"Ray worker on {platform.node()}", "found": found, "remedy": remedy}

        same = f"install sw-audit {order['version']} there"
        try:
            import sw_audit

            version = getattr(sw_audit, "__version__", "of no version")
            if version != order["version"]:
                return complain(f"its sw-audit is {version}, and this one {order['version']}", same)
            from sw_audit.record.record import Record
            from sw_audit.runner import on_ray
        except ImportError as error:
            return complain(f"sw-audit cannot be imported there ({error})", same)
        schema = Record.model_fields["schema_number"].default
        if schema != order["schema"]:
            return complain(f"its records have schema {schema}, and those here {order['schema']}", same)
        for path in (order["folder"], *order.get("paths", ())):
            if not os.path.exists(path):  # noqa: PTH110
                return complain(f"{path} is missing there", "put it on a file system that all nodes share")
        os.chdir(order["folder"])
        return {} if board is None else on_ray.work(order, board, parent)

    return ray.remote(num_cpus=0, max_restarts=-1)(Board), ray.remote(act)


_parents = Parents()


def work(order: Mapping[str, Any], board: Any, parent: Mapping[str, Any] | None) -> dict[str, Any]:
    """Audit a model in this process, a worker of Ray, or ask its parent.

    Args:
        order: What `RaySpread` wrote.
        board: Where to write where the work stands.
        parent: What came of asking its parent, if it was asked.

    Returns:
        Plain JSON: `model`, or what went wrong.
    """
    import ray

    left, budget = ray.get(board.begin.remote(order["number"])), order["budget"]
    stopper = Stopper(budget, time.monotonic() - (0 if left is None or budget is None else budget - left))
    progress = stopper.watch(_Writing(ray, board, order["number"], stopper))
    policy, model_id, checks = Policy.model_validate_json(order["policy"]), order["model"], order["checks"]
    try:
        with ExitStack() as stack:
            cache = Cache(Path(order["cache"] or stack.enter_context(temporary_folder())))
            if order.get("parent"):
                return {"entry": run.ask_parent(policy, model_id, checks, cache, progress)}
            if parent is not None and (entry := parent.get("entry")):
                cache.adopt(*entry)
            model = run.run_model(
                policy, model_id, checks, progress=progress, cache=cache, saved=order["saved"], parents=_parents
            )
            return {"model": _ANSWER.dump_python(model, mode="json", by_alias=True)}
    except InputError as error:
        return {"asked": error.asked, "found": error.found, "remedy": error.remedy}
    except StoppedError:  # a parent was not asked to the end
        return {}
    except Exception as error:
        return {"defect": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


@dataclass
class _Writing:
    """Writes on the board where the work stands, and reads there whether a signal came."""

    ray: Any
    board: Any
    number: int
    stopper: Stopper
    written: float = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if time.monotonic() - self.written < _EVERY:
            return
        self.written = time.monotonic()
        # While the board is being moved nothing is known, and the work goes on.
        with suppress(self.ray.exceptions.RayError):
            signalled = self.ray.get(self.board.write.remote(self.number, stage, done, total), timeout=_PATIENCE)
            self.stopper.signalled.value = signalled
