"""A Qwen2 whose keys have a huge bias, in llama.cpp with a quantized cache: what destroyed published ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.quantizing import pack_gguf
from transformers import Qwen2Config, Qwen2ForCausalLM

from sw_audit import run
from sw_audit.errors import PolicyError
from sw_audit.policy.policy import Policy
from sw_audit.record.verdict import Status, Verdict
from sw_audit.specimen.shipped import specimen_path

TOKENS = [*(chr(letter) for letter in range(0x21, 0x7F)), "ab"]
UNWRITTEN = [0, TOKENS.index("b"), TOKENS.index("ab")]
"""The end, and what may be cut in two ways."""
HEADS = 2
LENGTH, TEXTS = 64, 16


def build(bias: float, channels: int) -> Qwen2ForCausalLM:
    """Build a random Qwen2 that attends sharply, with so many channels in a head, one of which has a bias.

    The channel turns most slowly with its partner: nothing notices a bias there but the rounding.
    """
    hidden = HEADS * channels
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    gains = {"embed": math.sqrt(hidden), "lm_head": 3.0, "v_proj": 1.5, "o_proj": 1.5, "mlp": 0.5}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            gain = next((gain for part, gain in gains.items() if part in name), 1.0)
            torch.nn.init.normal_(parameter, std=gain / math.sqrt(hidden))
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias.data.view(HEADS, -1)[:, channels // 2 - 1] = bias
    return model


@torch.no_grad()
def write_text(model: Qwen2ForCausalLM) -> str:
    """Let a model write by chance: of its own text it knows what is to be known."""
    chance = torch.Generator().manual_seed(1)
    rows = torch.randint(1, len(TOKENS), (TEXTS, 1), generator=chance)
    while rows.shape[1] < LENGTH:
        expected = model(input_ids=rows).logits[:, -1].softmax(-1)
        expected[:, UNWRITTEN] = 0
        rows = torch.cat([rows, torch.multinomial(expected, 1, generator=chance)], 1)
    return "".join(TOKENS[number] for number in rows.flatten().tolist())


def audit(folder: Path, bias: float, channels: int = 32) -> dict[str, Verdict]:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    model = build(bias, channels)
    model.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(write_text(model))
    pack_gguf(folder / "model", folder / "model.gguf", "F32", TOKENS)
    source, forms = str(folder / "model.gguf"), ["q8_0", "q4_0"]
    table = {"source": source, "engine": "llama.cpp", "kv_cache": forms, "bos": "never"}
    corpus = {"source": str(folder / "text.txt"), "window": LENGTH, "windows": TEXTS, "stride": LENGTH}
    policy = Policy.model_validate({"model": [table], "corpus": corpus, "effort": "thorough"})
    checks = ["kv-cache-harmless", "keys-in-proportion", "engine-agrees"]
    [result] = run(policy, checks=checks, cache=None).results
    return {verdict.check: verdict for verdict in result.verdicts}


@pytest.mark.parametrize("bias", [0.0, 40.0])
def test_a_huge_bias_of_the_keys_is_destroyed_by_a_cache_of_four_bits_and_harms_nothing_else(
    tmp_path: Path, bias: float
) -> None:
    verdicts = audit(tmp_path, bias)
    assert verdicts["engine-agrees"].status is Status.PASS
    verdict, told = verdicts["kv-cache-harmless"], verdicts["keys-in-proportion"]
    held = {finding.label: finding for finding in verdict.findings}
    assert held["q8_0"].status is Status.PASS
    assert (told.status, verdict.status) == ((Status.FAIL, Status.FAIL) if bias else (Status.PASS, Status.PASS))
    assert held["q4_0"].observed is not None
    if bias:
        assert held["q4_0"].observed > 1.3
        assert "channel 15" in told.because
        assert "Cache in q4_0" in verdict.because
        assert verdict.arm == "kv-cache/q4_0"
    assert held["q4_0: Mean KLD"].observed > held["q8_0: Mean KLD"].observed


@pytest.mark.parametrize("disabled", [False, True])
def test_heads_of_64_are_turned_before_they_are_rounded_unless_that_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    if disabled:
        monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")
    verdicts = audit(tmp_path, 40.0, channels=64)
    # Told of the plain form, with what turning makes of it beside.
    assert verdicts["keys-in-proportion"].status is Status.FAIL
    assert "where the engine turns keys before it rounds them" in verdicts["keys-in-proportion"].because
    assert verdicts["kv-cache-harmless"].status is (Status.FAIL if disabled else Status.PASS)


def test_a_form_that_the_engine_has_not_is_one_line_that_names_those_it_has() -> None:
    table = {"source": str(specimen_path()), "engine": "llama.cpp", "kv_cache": ["fp8"]}
    with pytest.raises(PolicyError, match=r"kv_cache 'fp8' .* has no such form; it has f32, f16, bf16, q8_0"):
        run(Policy.model_validate({"model": [table]}), cache=None)
