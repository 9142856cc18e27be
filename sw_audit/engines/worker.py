"""An object in a process of its own: what it prints is kept away, and its death is an error of one line.

Libraries that serve models print, abort, and end processes that they are loaded into. One that runs here is asked
by a pipe; the process ends with this one, or when it is closed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sw_audit.duration import write_duration
from sw_audit.errors import EngineError

_PATIENCE = 5.0
"""Seconds that a process may take to end by itself."""
_LAST_WORDS = 4096
"""Bytes of what it printed that are looked at when it has ended."""
_CHECK = "check the files, and that there is enough memory"
_START = "import sys; from sw_audit.engines.worker import serve; serve(int(sys.argv[1]), sys.argv[2])"


class RefusedError(Exception):
    """What an object in such a process raises to say what was found, and what to do."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found, remedy)
        self.found, self.remedy = found, remedy


class Worker:
    """An object that lives in a process of its own, made there.

    Args:
        asked: What errors begin with, such as `model 'small' in llama.cpp`.
        kind: Where its class stands, `module:name`. Importing the module must not need what imports slowly.
        arguments: What it is made of, by name; anything that can be pickled.
        timeout: Seconds that it may take to be made, and for each answer.
        environment: Environment variables of its process, besides those of this one.

    Raises:
        EngineError: If it cannot be made.
    """

    def __init__(
        self,
        asked: str,
        kind: str,
        arguments: Mapping[str, Any],
        timeout: float,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._asked, self._timeout = asked, timeout
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._pipe, theirs = Pipe()
        project = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        # A group of its own: an interrupt from the keyboard is for this process, which then ends that one.
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, on this module
            [sys.executable, "-P", "-c", _START, str(theirs.fileno()), kind],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        try:
            self.call("", dict(arguments))
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """The system's number of its process."""
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object and return its answer.

        Raises:
            EngineError: If it refuses, fails, does not answer in time, or its process has ended.
            NotImplementedError: If it raises that.
        """
        if self._pipe.closed:
            raise EngineError(self._asked, "it was closed", "open it again")
        try:
            self._pipe.send_bytes(pickle.dumps((method, arguments)))
            if not self._pipe.poll(self._timeout):
                self._end()
                found = f"it did not answer within {write_duration(self._timeout)}"
                raise EngineError(self._asked, found, "give it more time by timeout, or fewer and shorter windows")
            outcome, value = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - what `serve` has sent
        except (EOFError, OSError) as error:
            raise EngineError(self._asked, self._tell_end(), _CHECK) from error
        if outcome == "refused":
            raise EngineError(self._asked, *value)
        if outcome == "unable":
            raise NotImplementedError(value)
        return value

    def close(self) -> None:
        """Let the process end, or end it; doing so twice is no error."""
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._end()
        self._printed.close()

    def _end(self) -> None:
        # Its group holds what it may have started, also where it has ended itself.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _tell_end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._end()
        code = self._process.returncode
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        self._printed.seek(max(0, os.fstat(self._printed.fileno()).st_size - _LAST_WORDS))
        lines = [line.strip() for line in self._printed.read().decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return f"its process ended {how}" + (f", and said {last[:300]!r}" if last else "")


def serve(descriptor: int, kind: str) -> None:
    """Answer calls until the other end of the pipe is closed; what runs in the process of a `Worker`."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    module, _, name = kind.partition(":")
    target: Any = None
    answer: tuple[str, Any]
    while True:
        try:
            method, arguments = pickle.loads(pipe.recv_bytes())  # noqa: S301 - what a `Worker` has sent
        except (EOFError, OSError):
            break
        try:
            if target is None:
                target = getattr(import_module(module), name)(**arguments[0])
                answer = ("done", None)
            else:
                answer = ("done", getattr(target, method)(*arguments))
        except RefusedError as error:
            answer = ("refused", (error.found, error.remedy))
        except NotImplementedError as error:
            answer = ("unable", str(error))
        except Exception as error:  # whatever a library raises
            traceback.print_exc()
            answer = ("refused", (f"{type(error).__name__}: {error}", _CHECK))
        try:
            pipe.send_bytes(pickle.dumps(answer))
        except OSError:
            break
    # Libraries abort when their threads are still there; nothing is left to tidy up.
    os._exit(0)
