from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.backends import require
from support.checkpoints import save_checkpoint

from sw_audit.backends.method import Method
from sw_audit.backends.models import count_saved_bits, quantize_models
from sw_audit.backends.registry import METHODS, find_methods
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import cut_calibration, window_corpus
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.specimen.shipped import specimen_path


def draw_calibration(wanted: ModelPolicy, count: int) -> torch.Tensor:
    checkpoint, corpus = open_checkpoint(wanted), CorpusPolicy(source="specimen", windows=8)
    text = read_corpus(corpus)
    windows = window_corpus(text, checkpoint.tokenizer, corpus, checkpoint.maximum_positions, checkpoint.start.bos)
    found = cut_calibration(text, checkpoint.tokenizer, windows, count)
    assert found is not None
    return found.token_ids


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method.train], ids=lambda method: method.name)
def test_a_whole_model_comes_back_layer_by_layer(method: Method, tmp_path: Path) -> None:
    wanted = ModelPolicy(source=str(specimen_path()))
    (quantizer,) = quantize_models([require(method)], wanted, draw_calibration(wanted, 8), 0, tmp_path)
    assert quantizer.failure is None
    checkpoint = open_checkpoint(wanted)
    layer = checkpoint.layers[3]
    before = {name: tensor.clone() for name, tensor in layer.module.state_dict().items()}
    stand_in = quantizer(layer)
    after = layer.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    found = stand_in.state_dict()
    assert found.keys() == before.keys()
    weight = found["self_attn.o_proj.weight"]
    assert not torch.equal(weight, before["self_attn.o_proj.weight"])
    # 64 input channels are one group: 4 bits leave at most 16 values in each row.
    assert max(len(row.unique()) for row in weight) <= 16
    # AWQ moves scales from projection to projection and norm, so only what a layer computes can be compared.
    hidden = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(3))
    angles = checkpoint.model.model.rotary_emb(hidden, torch.arange(6)[None])
    with torch.no_grad():
        expected, given = (module(hidden, position_embeddings=angles) for module in (layer.module, stand_in))
    expected, given = (output if isinstance(output, torch.Tensor) else output[0] for output in (expected, given))
    change = float((expected - hidden).norm())
    assert 0 < float((given - expected).norm()) < 0.5 * change
    weights = sum(matrix.tensor.numel() for layer in checkpoint.layers for matrix in layer.matrices)
    assert quantizer.weights == weights
    # Codes of 4 bits, and per 64 of them a scale of 16 and a zero point of 4; GPTQ adds where channels belong.
    assert quantizer.bits is not None
    assert 4 + 20 / 64 <= quantizer.bits / weights < 5
    assert quantizer.seconds is not None
    assert quantizer.seconds > 0


@pytest.mark.slow
def test_a_library_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    (method,) = find_methods(["auto-round-awq"])
    folder = save_checkpoint(tmp_path / "model", tokenizer=False)
    job = tmp_path / "job"
    job.mkdir()
    calibration = torch.ones(1, 8, dtype=torch.long)
    (quantizer,) = quantize_models([require(method)], ModelPolicy(source=str(folder)), calibration, 0, job)
    assert quantizer.failure is not None
    assert "tokenizer" in quantizer.failure
    assert "\n" not in quantizer.failure


def test_saved_bits_are_those_of_everything_that_stands_for_a_weight(tmp_path: Path) -> None:
    save_file(
        {
            "layers.0.up.qweight": torch.zeros(4, 8, dtype=torch.int32),
            "layers.0.up.scales": torch.zeros(2, 8, dtype=torch.float16),
            "layers.0.up.bias": torch.zeros(8),
            "layers.0.upper.qweight": torch.zeros(100, dtype=torch.int32),
            "layers.0.down.weight": torch.zeros(3, 3),
        },
        tmp_path / "model.safetensors",
    )
    assert count_saved_bits(tmp_path, ["layers.0.up.weight"]) == 32 * 32 + 16 * 16
    assert count_saved_bits(tmp_path, ["layers.0.up.weight", "layers.0.down.weight"]) == 32 * 32 + 256 + 9 * 32
    assert count_saved_bits(tmp_path, ["layers.0.up.weight", "layers.0.gate.weight"]) is None
