"""A GGUF file in llama.cpp: its figures beside transformers', and one line for whatever goes wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.quantizing import pack_gguf
from transformers import LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.corpus.windows import Windows, cut_windows
from sw_audit.engines import llama_cpp
from sw_audit.engines.engine import Distributions, Engine, EngineRequest, Piece, cut_pieces
from sw_audit.engines.llama_cpp import LLAMA_CPP
from sw_audit.engines.registry import require_engine
from sw_audit.engines.transformers import Transformers
from sw_audit.errors import EngineError, InputError
from sw_audit.measure.generation import Prompt, generate_continuations
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

TOKENS = (*(chr(letter) for letter in range(0x21, 0x7F)), "ab")
VOCABULARY, POSITIONS = 210, 96
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a Llama with heads of 32, which the forms of the cache divide."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    pytest.importorskip("gguf")
    tokens = (*TOKENS, *(f"unused{number}" for number in range(VOCABULARY - len(TOKENS))))
    pack_gguf(folder, folder / "small.gguf", "F32", tokens)
    return folder / "small.gguf"


@pytest.fixture(scope="module")
def checkpoint(file: Path) -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(file)))


@pytest.fixture
def request_(file: Path, checkpoint: Checkpoint) -> EngineRequest:
    pytest.importorskip("xllamacpp")
    model = ModelPolicy(source=str(file), engine="llama.cpp")
    return EngineRequest(model, POSITIONS, checkpoint)


@pytest.fixture
def windows() -> Windows:
    token_ids = torch.randint(VOCABULARY, (90,), generator=torch.Generator().manual_seed(1)).tolist()
    return cut_windows(token_ids, 40, 25, None, 3)


def join(scored: list[Distributions]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([one.log_probabilities for one in scored]), torch.cat([one.targets for one in scored])


def score(engine: Engine, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    return join(list(engine.score(windows, cut_pieces(windows, VOCABULARY))))


def test_in_full_precision_it_says_what_transformers_says(
    request_: EngineRequest, checkpoint: Checkpoint, windows: Windows
) -> None:
    expected, targets = score(Transformers(checkpoint), windows)
    with LLAMA_CPP.open(replace(request_, kv_cache="f32")) as engine:
        found, found_targets = score(engine, windows)
    assert found.shape == (windows.scored, VOCABULARY)
    # Measured: 1.0e-5 at logits of up to 30. With another rotation it is 1 and more.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found_targets, targets, atol=1e-4, rtol=0)


def test_pieces_go_on_from_each_other_in_any_cut_and_order(request_: EngineRequest, windows: Windows) -> None:
    pieces = [Piece(1, 14, 20), Piece(1, 20, 39), Piece(0, 0, 39), Piece(1, 30, 39), Piece(1, 30, 31)]
    pieces += [Piece(1, 14, 20), Piece(0, 25, 39)]
    with LLAMA_CPP.open(replace(request_, kv_cache="f32")) as engine:
        whole, _ = score(engine, windows)
        scored = [one.log_probabilities for one in engine.score(windows, pieces)]
    first, second = whole[:39], whole[39:64]
    expected_all = (second[:6], second[6:], first, second[16:], second[16:17], second[:6], first[25:])
    for found, expected in zip(scored, expected_all, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_its_identity_tells_the_library_and_how_it_is_set_up(request_: EngineRequest) -> None:
    with LLAMA_CPP.open(replace(request_, kv_cache="q8_0", threads=2)) as engine:
        identity = engine.identity
    assert identity.engine == "llama.cpp"
    assert identity.version
    assert identity.package.startswith("xllamacpp 20")
    assert (identity.vocabulary, identity.top_tokens) == (VOCABULARY, None)
    assert identity.settings == {
        "threads": "2",
        "kv_cache": "q8_0",
        "flash_attention": "enabled",
        "repack": "on",
    }


def test_each_form_of_the_cache_is_worse_the_fewer_its_bits(request_: EngineRequest, windows: Windows) -> None:
    found = {}
    for form in LLAMA_CPP.kv_caches:
        with LLAMA_CPP.open(replace(request_, kv_cache=form)) as engine:
            found[form], _ = score(engine, windows)
    exact = found["f32"].double()
    damage = {
        form: float((exact.exp() * (exact - log_p.double())).sum(-1).mean()) for form, log_p in found.items()
    }
    assert damage["f16"] < damage["bf16"] < damage["q8_0"] < damage["q5_0"] < damage["q4_0"]
    assert damage["q5_1"] < damage["q4_1"]
    assert damage["q8_0"] < damage["iq4_nl"]


def test_it_continues_as_transformers_does_and_ends_before_an_end_token(
    request_: EngineRequest, checkpoint: Checkpoint
) -> None:
    prompts = [Prompt("", (5, 9, 40, 77), 4, 10), Prompt("", (100,), 1, 6)]
    expected = [one.tokens for one in generate_continuations(checkpoint, prompts)]
    told: list[tuple[str, int, int]] = []
    with LLAMA_CPP.open(replace(request_, kv_cache="f32")) as engine:
        found = engine.continue_prompts(prompts, frozenset(), lambda *told_: told.append(told_))
        end = found[0].tokens[3]
        ended = engine.continue_prompts(prompts[:1], frozenset({end}))
    assert [one.tokens for one in found] == expected
    assert all(one.finite and one.text == "" for one in found)
    assert ended[0].tokens == expected[0][: expected[0].index(end)]
    assert told[-1] == ("generating", 16, 16)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_it_cuts_texts_as_the_file_says_and_adds_nothing(
    request_: EngineRequest, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    text = "ab!abba(x)" * 40
    with LLAMA_CPP.open(request_) as engine:
        assert list(engine.tokenize(text)) == checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert engine.tokenize("") == ()
    flagged = {"tokenizer.ggml.add_bos_token": True}
    tokens = (*TOKENS, *(f"u{number}" for number in range(VOCABULARY - len(TOKENS))))
    pack_gguf(specimen_path(), tmp_path / "bos.gguf", "F32", tokens, flagged)
    with LLAMA_CPP.open(replace(request_, model=ModelPolicy(source=str(tmp_path / "bos.gguf")))) as engine:
        assert engine.tokenize("ab") == (TOKENS.index("ab"),)
        with pytest.raises(EngineError, match="there is no token 210 among its 210"):
            engine.continue_prompts([Prompt("", (210,), 1, 1)], frozenset())


def test_a_sequence_that_is_too_long_is_one_line_and_ends_nothing(request_: EngineRequest) -> None:
    # The library rounds the positions that it is asked for up to 256.
    token_ids = torch.randint(VOCABULARY, (1, 400), generator=torch.Generator().manual_seed(2))
    long = Windows(token_ids, torch.ones(1, dtype=torch.int64))
    with LLAMA_CPP.open(request_) as engine:
        with pytest.raises(EngineError, match="a sequence of 399 tokens, and it was set up for 256; give shorter"):
            list(engine.score(long, [Piece(0, 0, 399)]))
        with pytest.raises(EngineError, match="a sequence of 257 tokens"):
            engine.continue_prompts([Prompt("", tuple(token_ids[0, :250].tolist()), 250, 20)], frozenset())
        (scored,) = engine.score(long, [Piece(0, 0, 256)])
    assert scored.log_probabilities.isfinite().all()


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[!]{% endif %}"
)


def open_with_template(request_: EngineRequest, tmp_path: Path, template: str) -> Engine:
    tokens = (*TOKENS, *(f"u{number}" for number in range(VOCABULARY - len(TOKENS))))
    pack_gguf(specimen_path(), tmp_path / "chat.gguf", "F32", tokens, {"tokenizer.chat_template": template})
    return LLAMA_CPP.open(replace(request_, model=ModelPolicy(source=str(tmp_path / "chat.gguf"))))


def test_it_writes_a_conversation_by_the_template_of_the_file(request_: EngineRequest, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "naïve 東京?"}]
    with open_with_template(request_, tmp_path, TEMPLATE) as engine:
        assert engine.render(messages) == "[system]Be brief.[user]naïve 東京?[!]"
        assert engine.render(messages[1:]) == "[user]naïve 東京?[!]"
        # Its server writes a log of its own; the library's errors are still told afterwards.
        with pytest.raises(EngineError, match="there is no token 999"):
            engine.continue_prompts([Prompt("", (999,), 1, 1)], frozenset())


def test_a_template_that_llama_cpp_cannot_use_is_one_line_with_the_reason(
    request_: EngineRequest, tmp_path: Path
) -> None:
    with open_with_template(request_, tmp_path, "{{ messages | nosuchfilter }}") as engine:
        with pytest.raises(EngineError) as caught:
            engine.render([{"role": "user", "content": "Hi"}])
        assert engine.tokenize("ab") == (TOKENS.index("ab"),)
    assert "Unknown (built-in) filter 'nosuchfilter'" in str(caught.value)
    assert "for example" not in str(caught.value)


def test_a_file_without_a_template_is_not_given_another(request_: EngineRequest) -> None:
    with LLAMA_CPP.open(request_) as engine, pytest.raises(NotImplementedError, match="no chat template"):
        engine.render([{"role": "user", "content": "Hi"}])


def test_weights_that_are_not_finite_are_told_and_never_a_token(
    request_: EngineRequest, folder: Path, tmp_path: Path, windows: Windows
) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(tmp_path)
    pack_gguf(tmp_path, tmp_path / "nan.gguf", "F32", (*TOKENS, *(f"u{n}" for n in range(VOCABULARY - 95))))
    broken = replace(request_, model=ModelPolicy(source=str(tmp_path / "nan.gguf"), engine="llama.cpp"))
    with LLAMA_CPP.open(broken) as engine:
        (scored,) = engine.score(windows, [Piece(0, 0, 39)])
        (continued,) = engine.continue_prompts([Prompt("", (1, 2), 2, 4)], frozenset())
    assert scored.targets.isnan().all()
    assert (scored.top == -1).all()
    assert (continued.tokens, continued.finite) == ((), False)


def fail(request_: EngineRequest, path: Path) -> str:
    with pytest.raises(EngineError) as caught:
        LLAMA_CPP.open(replace(request_, model=ModelPolicy(source=str(path), engine="llama.cpp")))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "not within the file bounds"),
        (lambda data: data[:40], "exceeds remaining file size"),
        (
            lambda data: data.replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight"),
            "ffn_down.weight' not found",
        ),
        (lambda data: data.replace(b"llama.embedding_length", b"llama.embedding_lengtH"), "key not found"),
    ],
    ids=["half", "header", "a tensor less", "a key less"],
)
def test_a_broken_file_is_one_line_with_the_reason(
    request_: EngineRequest, file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(file.read_bytes()))
    message = fail(request_, path)
    assert message.startswith("model 'broken' in llama.cpp: llama.cpp cannot open the file (")
    assert words in message


def test_a_tensor_of_another_shape_is_one_line(request_: EngineRequest, folder: Path, tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(folder)
    config.intermediate_size = 64
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    LlamaConfig.from_pretrained(folder).save_pretrained(tmp_path)
    pack_gguf(tmp_path, tmp_path / "shape.gguf", "F32", (*TOKENS, *(f"u{n}" for n in range(VOCABULARY - 95))))
    assert "has wrong shape" in fail(request_, tmp_path / "shape.gguf")


def test_a_cache_that_does_not_fit_the_heads_is_one_line(request_: EngineRequest, tmp_path: Path) -> None:
    pack_gguf(specimen_path(), tmp_path / "sixteen.gguf", "F32", (*TOKENS, *(f"u{n}" for n in range(115))))
    assert "does not divide n_embd_head_k=16" in fail(
        replace(request_, kv_cache="q8_0"), tmp_path / "sixteen.gguf"
    )


def test_a_library_that_is_killed_midway_is_one_line(request_: EngineRequest, windows: Windows) -> None:
    with LLAMA_CPP.open(request_) as engine:
        scored = engine.score(windows, cut_pieces(windows, VOCABULARY))
        next(scored)
        os.kill(engine._worker.process_id, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(EngineError, match=r"in llama\.cpp: its process ended by SIGKILL"):
            next(scored)


def test_two_are_open_at_once_and_one_after_another(request_: EngineRequest, windows: Windows) -> None:
    with LLAMA_CPP.open(request_) as first, LLAMA_CPP.open(request_) as second:
        alone = score(first, windows)
        assert torch.equal(alone[0], score(second, windows)[0])
        assert torch.equal(alone[0], score(first, windows)[0])
    with LLAMA_CPP.open(request_) as third:
        assert torch.equal(alone[0], score(third, windows)[0])


def test_files_that_are_not_gguf_are_refused_before_anything_is_opened() -> None:
    plain = ModelPolicy(source=str(specimen_path()), engine="llama.cpp")
    with pytest.raises(InputError, match=r"and llama[.]cpp runs GGUF files alone"):
        require_engine(plain)


def test_without_the_package_the_remedy_is_how_to_install_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"xllamacpp is not installed; pip install 'sw-audit\[llama-cpp\]'"):
        require_engine(ModelPolicy(source=str(file), engine="llama.cpp"))


def test_a_form_of_the_cache_that_it_does_not_have_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match="has no such form"):
        require_engine(ModelPolicy(source=str(file), engine="llama.cpp", kv_cache=("q8_0", "fp8")))
