"""Nothing is executed, unpickled or fetched unless it is asked for by name.

A program of its own opens each folder, with a hub that records what it is asked and a guard on every connection.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import rewrite_config, save_checkpoint
from support.quantizing import pack_gguf

from sw_audit.specimen.shipped import specimen_path

PROGRAM = """
import json, socket, sys
connected, connect = [], socket.socket.connect
def note(self, address):
    connected.append(str(address))
    return connect(self, address)
socket.socket.connect = note
from sw_audit.checkpoint.folder import inspect_checkpoint
from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.formats.format import CannotStreamError
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.policy.model_policy import ModelPolicy
for line in sys.stdin:
    asked, said = json.loads(line), []
    del connected[:]
    for act in (inspect_checkpoint, lint_checkpoint, open_checkpoint, open_streaming):
        try:
            act(ModelPolicy(**asked))
            said.append("")
        except (CheckpointError, CannotStreamError) as error:
            said.append(str(error))
    print(json.dumps({"said": said, "connected": connected}), flush=True)
"""


@dataclass
class Hub:
    """A hub that has nothing, and what it was asked for."""

    place: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the library calls it so

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def program(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = str(tmp_path_factory.mktemp("home"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, "HF_ENDPOINT": hub.place, "HF_HOME": home},
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Cage:
    """A checkpoint with a canary in every file that could run, each of which leaves a file if it does."""

    folder: Path
    program: subprocess.Popen[str]

    @property
    def sang(self) -> set[str]:
        """The canaries that were executed."""
        return {path.name for path in (self.folder.parent / "sang").iterdir()}

    def open(self, source: Path | None = None, **options: Any) -> dict[str, list[str]]:
        """Inspect it, look at it, open it whole and by layers; what was said each time, and who was called."""
        asked = json.dumps({"source": str(source or self.folder), **options})
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(asked + "\n")
        self.program.stdin.flush()
        answer: dict[str, list[str]] = json.loads(self.program.stdout.readline())
        return answer


class Song:
    """What touches a file when it is read from a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


@pytest.fixture
def cage(tmp_path: Path, program: subprocess.Popen[str]) -> Cage:
    folder, songs = save_checkpoint(tmp_path / "model"), tmp_path / "sang"
    songs.mkdir()
    (folder / "custom_generate").mkdir()
    code = "import pathlib\npathlib.Path({!r}).touch()\n"
    own = "from transformers import {0}Config as Own, {0}ForCausalLM\nclass Odd({0}ForCausalLM):\n    pass\n"
    for name in ("modeling_odd.py", "configuration_odd.py", "tokenization_odd.py", "custom_generate/generate.py"):
        text = code.format(str(songs / Path(name).name))
        (folder / name).write_text(text + (own.format("Llama") if "generate" not in name else ""))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Song(songs / name)))
    rewrite_config(folder, auto_map={"AutoModelForCausalLM": "modeling_odd.Odd"})
    return Cage(folder, program)


def test_beside_safetensors_nothing_runs_and_nobody_is_called(cage: Cage, hub: Hub) -> None:
    for options in ({}, {"allow_pickle": True}):
        assert cage.open(**options) == {"said": [""] * 4, "connected": []}
    assert cage.sang == set()
    assert hub.asked == []


def test_a_pickle_is_read_only_where_it_is_allowed_and_its_code_never_runs(cage: Cage) -> None:
    (cage.folder / "model.safetensors").unlink()
    for options, said in (({}, "a pickle, which can run code"), ({"allow_pickle": True}, "weights")):
        answer = cage.open(**options)
        assert all(said in line for line in answer["said"][-2:])
        assert answer["connected"] == []
    assert cage.sang == set()


def test_an_index_that_names_a_pickle_does_not_reach_it(cage: Cage) -> None:
    (cage.folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (cage.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for options in ({}, {"allow_pickle": True}):
        assert "which is no .safetensors file" in cage.open(**options)["said"][-1]
    assert cage.sang == set()


def test_code_runs_where_it_is_trusted_so_these_canaries_can_sing(cage: Cage) -> None:
    answer = cage.open(trust_remote_code=True)
    assert "modeling_odd.py" in cage.sang
    assert cage.sang.isdisjoint({"pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"})
    assert answer["connected"] == []


def test_code_that_is_needed_and_not_trusted_does_not_run(cage: Cage) -> None:
    rewrite_config(cage.folder, model_type="odd", auto_map={"AutoConfig": "configuration_odd.Own"})
    answer = cage.open()
    assert "it needs code that comes with the checkpoint" in answer["said"][-1]
    assert (cage.sang, answer["connected"]) == (set(), [])


def test_a_gguf_file_that_names_a_repository_calls_nobody(cage: Cage, hub: Hub) -> None:
    pytest.importorskip("gguf")
    path = cage.folder / "it.gguf"
    tokens = [*map(chr, range(0x21, 0x7F)), "ab", *(f"unused{number}" for number in range(115))]
    pack_gguf(specimen_path(), path, "Q8_0", tokens, {"general.source.repo_url": f"{hub.place}/someone/base"})
    answer = cage.open(path)
    assert (answer["said"][2], answer["connected"], cage.sang, hub.asked) == ("", [], set(), [])


@pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
def test_a_base_that_only_an_adapter_names_is_not_fetched_and_one_that_is_asked_for_is(
    cage: Cage, hub: Hub
) -> None:
    for path in cage.folder.glob("*.*"):
        path.unlink()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "someone/base"}
    (cage.folder / "adapter_config.json").write_text(json.dumps(settings))
    (cage.folder / "adapter_model.safetensors").write_bytes(b"")
    answer = cage.open()
    assert 'set base = "someone/base" to have it fetched' in answer["said"][-1]
    assert (answer["connected"], hub.asked) == ([], [])
    cage.open(base="someone/base")
    assert all("someone/base" in path for path in hub.asked)
