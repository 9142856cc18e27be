"""A model in vLLM: its figures beside transformers', the ways to ask its server, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from support.serving import relay, write_small_llama

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.engines import openai_server
from sw_audit.engines.completions import UntoldError
from sw_audit.engines.engine import Distributions, Engine, EngineRequest, cut_pieces
from sw_audit.engines.openai_server import OPENAI_ENGINE
from sw_audit.engines.registry import require_engine
from sw_audit.engines.transformers import Transformers
from sw_audit.engines.vllm import VLLM_ENGINE, Vllm
from sw_audit.errors import EngineError, InputError
from sw_audit.measure.generation import Prompt, generate_continuations
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

POSITIONS = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    pytest.importorskip("vllm")
    return open_checkpoint(ModelPolicy(source=str(write_small_llama(tmp_path_factory.mktemp("llama")))))


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    with open_(checkpoint) as engine:
        yield engine


@pytest.fixture(scope="module")
def windows() -> Windows:
    token_ids = torch.randint(2, 210, (3, 32), generator=torch.Generator().manual_seed(1))
    token_ids[:, 0] = 0
    return Windows(token_ids, torch.tensor([1, 1, 9]), None, 0)


def open_(checkpoint: Checkpoint, kv_cache: str | None = None) -> Vllm:
    model = ModelPolicy(source=checkpoint.identity.source, id="small", engine="vllm", timeout=400, top_tokens=50)
    require_engine(model)
    engine = VLLM_ENGINE.open(EngineRequest(model, POSITIONS, checkpoint, kv_cache, threads=2))
    assert isinstance(engine, Vllm)
    return engine


def score(engine: Engine, windows: Windows) -> list[Distributions]:
    return list(engine.score(windows, cut_pieces(windows, 210)))


def differ(found: list[Distributions], expected: list[Distributions]) -> tuple[float, float]:
    """Return the largest difference of the tokens that follow, in nats, and the share of other top tokens."""
    own, theirs = (torch.cat([one.targets for one in some]) for some in (found, expected))
    top, their_top = (torch.cat([one.top for one in some]) for some in (found, expected))
    return float((own - theirs).abs().max()), float((top != their_top).float().mean())


def list_group(group: int) -> list[int]:
    return [process.pid for process in psutil.process_iter() if _find_group(process.pid) == group]


def wait_for_end(group: int) -> None:
    """Wait until nothing of a group runs; what is killed takes a moment."""
    until = time.monotonic() + 30
    while list_group(group):
        assert time.monotonic() < until
        time.sleep(0.1)


def _find_group(process: int) -> int | None:
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return None


@pytest.mark.slow
def test_in_full_precision_it_says_what_transformers_says(
    engine: Engine, checkpoint: Checkpoint, windows: Windows
) -> None:
    found, expected = score(engine, windows), score(Transformers(checkpoint), windows)
    assert differ(found, expected) == (pytest.approx(0, abs=1e-4), 0.0)
    for own, whole in zip(found, expected, strict=True):
        likeliest = whole.log_probabilities.topk(50).values
        torch.testing.assert_close(own.log_probabilities, likeliest, atol=1e-4, rtol=0)
    identity = engine.identity
    assert (identity.engine, identity.top_tokens, identity.served) == ("vllm", 50, "")
    assert identity.package.startswith("vllm")
    assert identity.version
    assert identity.settings["dtype"] == "float32"


@pytest.mark.slow
def test_it_continues_as_transformers_does_and_ends_before_an_end_token(
    engine: Engine, checkpoint: Checkpoint, windows: Windows
) -> None:
    prompts = [Prompt("", tuple(row), len(row), 8) for row in windows.token_ids[:, :6].tolist()]
    expected = [one.tokens for one in generate_continuations(checkpoint, prompts)]
    assert [one.tokens for one in engine.continue_prompts(prompts, frozenset({1}))] == expected
    end = expected[0][3]
    short = engine.continue_prompts(prompts[:1], frozenset({end}))[0]
    assert (short.tokens, short.finite) == (expected[0][: expected[0].index(end)], True)


@pytest.mark.slow
def test_it_cuts_texts_and_writes_conversations_as_the_files_say(engine: Engine, checkpoint: Checkpoint) -> None:
    text, messages = "the fox sang", [{"role": "user", "content": "the fox sang"}]
    assert engine.tokenize(text) == tuple(checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])
    expected = checkpoint.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert engine.render(messages) == expected


@pytest.mark.slow
@pytest.mark.parametrize("way", ["prompt_logprobs", "echo", "logit_bias"])
def test_its_server_can_be_asked_in_each_way(
    way: str, engine: Vllm, checkpoint: Checkpoint, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UntoldError("", "as if it did not", "")

    if way != "prompt_logprobs":
        monkeypatch.setattr(openai_server._OfPrompts, "_ask", refuse)
    if way == "logit_bias":
        monkeypatch.setattr(openai_server._Echoed, "_ask", refuse)
    expected = score(Transformers(checkpoint), windows.part(0, 1))
    with relay(engine.socket) as url:
        model = ModelPolicy(source=checkpoint.identity.source, id="small", engine="openai", url=url)
        with OPENAI_ENGINE.open(EngineRequest(model, POSITIONS, checkpoint)) as server:
            assert way in server.identity.settings["log-probabilities"]
            assert server.identity.version.startswith("vllm ")
            assert server.identity.top_tokens == 100
            assert differ(score(server, windows.part(0, 1)), expected) == (pytest.approx(0, abs=1e-4), 0.0)
        longer = EngineRequest(model, POSITIONS + 1, checkpoint)
        with pytest.raises(EngineError, match="takes sequences of 41 tokens, and 42 are needed"):
            OPENAI_ENGINE.open(longer)


@pytest.mark.slow
def test_another_form_of_the_cache_is_worse_and_nothing_stays(checkpoint: Checkpoint, windows: Windows) -> None:
    with open_(checkpoint, "fp8") as engine:
        assert engine.identity.settings["kv_cache"] == "fp8"
        moved, _ = differ(score(engine, windows), score(Transformers(checkpoint), windows))
        group, folder = engine.process_group, engine.socket.parent
        assert len(list_group(group)) > 2
    assert 1e-3 < moved < 1.0
    wait_for_end(group)
    assert not folder.exists()
    engine.close()


@pytest.mark.slow
def test_a_model_that_it_does_not_know_is_one_line_with_its_reason(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    folder = write_small_llama(tmp_path)
    checkpoint = open_checkpoint(ModelPolicy(source=str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(EngineError) as caught:
        open_(checkpoint)
    assert str(caught.value).startswith("model 'small' in vllm: vLLM has ended: ")
    assert "NoSuchModel" in caught.value.found
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_it_ends_with_a_process_that_is_killed(checkpoint: Checkpoint) -> None:
    program = (
        "from sw_audit.engines.vllm import _Process\n"
        f"process = _Process('', ['--model', {checkpoint.identity.source!r}], {{}})\n"
        "print(process.group, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        group = int(owner.stdout.readline())
        until = time.monotonic() + 60
        while len(list_group(group)) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        owner.send_signal(signal.SIGKILL)
    wait_for_end(group)


def test_files_that_it_does_not_open_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InputError, match="it opens a folder of safetensors files, and no single file"):
        require_engine(ModelPolicy(source=str(file), engine="vllm"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="an adapter by itself is no model that it opens"):
        require_engine(ModelPolicy(source=str(tmp_path), engine="vllm"))


def test_without_the_package_the_remedy_is_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sw_audit.engines.vllm.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"the package vllm is not installed; pip install \"sw-audit\[vllm\]\""):
        require_engine(ModelPolicy(source=str(specimen_path()), engine="vllm"))


def test_a_form_of_the_cache_that_it_does_not_have_is_refused() -> None:
    model = ModelPolicy(source=str(specimen_path()), id="small", engine="vllm", kv_cache=("q8_0",))
    with pytest.raises(InputError, match="kv_cache 'q8_0' of model 'small' in vllm: vllm has no such form"):
        require_engine(model)
