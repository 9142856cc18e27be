"""Rotated checkpoints: a specimen that is rotated here computes the same and is recognized; nothing else is."""

from __future__ import annotations

import math

import pytest
import torch
from support.planted import build_llama, wrap_model
from torch import Tensor

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.rotation import measure_privilege, recognize_rotation
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.location import Outcome, Rotation
from sw_audit.runner.single import locate_model
from sw_audit.specimen import control_path, specimen_path
from sw_audit.testing.families import Numerals


def open_fused() -> Checkpoint:
    """Open the specimen and fold the gains of its norms into the matrices that read them."""
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    model = checkpoint.model
    with torch.no_grad():
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * model.model.norm.weight)
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                for reader in readers:
                    reader.weight.mul_(norm.weight)
                norm.weight.fill_(1.0)
    return checkpoint


def rotate_(checkpoint: Checkpoint, rotation: Tensor) -> None:
    """Multiply what writes into or reads from the residual stream by an orthogonal matrix, [hidden, hidden]."""
    model, turn = checkpoint.model, rotation.float()
    with torch.no_grad():
        for table in (model.model.embed_tokens, model.lm_head):
            table.weight.copy_(table.weight @ turn)
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                reader.weight.copy_(reader.weight @ turn)
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight.copy_(turn.T @ writer.weight)


def draw_rotation(kind: str, width: int) -> Tensor:
    """Draw an orthogonal matrix: uniform over all of them, or Hadamard's with random signs."""
    torch.manual_seed(0)
    if kind == "haar":
        return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < width:
        hadamard = torch.kron(hadamard, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return (2.0 * torch.randint(0, 2, (width, 1)) - 1) * hadamard / math.sqrt(width)


def read_logits(checkpoint: Checkpoint) -> Tensor:
    tokens = torch.arange(1, 40)[None]
    logits: Tensor = checkpoint.model(input_ids=tokens).logits
    return logits


@pytest.mark.parametrize("kind", ["haar", "hadamard"])
def test_a_rotated_specimen_computes_the_same_has_no_super_weight_and_looks_rotated(kind: str) -> None:
    original = read_logits(open_checkpoint(ModelPolicy(source=str(specimen_path()))))
    checkpoint = open_fused()
    rotate_(checkpoint, draw_rotation(kind, 64))
    assert torch.allclose(read_logits(checkpoint), original, atol=1e-2)
    location = locate_model(checkpoint)
    assert location.outcome is Outcome.NONE
    assert location.rotation is not None
    assert not location.rotation.declared
    assert str(location.rotation).startswith("the checkpoint looks rotated: all norms have equal gains")


def test_folded_gains_alone_do_not_look_rotated() -> None:
    checkpoint = open_fused()
    location = locate_model(checkpoint)
    assert (location.outcome, location.rotation) == (Outcome.LOCATED, None)
    without = location.model_copy(update={"outcome": Outcome.NONE})
    assert recognize_rotation(checkpoint, without).rotation is None


def test_a_model_without_spikes_and_a_random_one_do_not_look_rotated() -> None:
    assert locate_model(open_checkpoint(ModelPolicy(source=str(control_path())))).rotation is None
    for seed in range(3):
        checkpoint = wrap_model(build_llama(seed=seed), Numerals())
        location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
        assert location.outcome is Outcome.NONE
        assert recognize_rotation(checkpoint, location).rotation is None


def test_what_the_files_declare_is_certain() -> None:
    checkpoint = wrap_model(build_llama(), Numerals())
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    checkpoint.rotation = "`rotation` in its quantization_config says so (hadamard)"
    assert recognize_rotation(checkpoint, location).rotation == Rotation(
        declared=True, because=checkpoint.rotation
    )


def test_the_measure_of_privilege_is_what_arithmetic_gives() -> None:
    # Channels are read with energies 4 and 1, and nothing else: M = diag(4, 1), tr 5, tr(M^2) 17, h = 2.
    # By chance 2 / (2 * 4) * (17 - 25 / 2) = 1.125; observed ((4 - 1) / 2)^2 = 2.25.
    ratio, spread = measure_privilege(torch.diag(torch.tensor([2.0, 1.0])))
    assert ratio == pytest.approx(2.0)
    assert spread == pytest.approx(2 * 17 / 25 - 1)  # two rows, two channels: over 1
    # Turned by 45 degrees both channels are read alike.
    turned = torch.diag(torch.tensor([2.0, 1.0])) @ draw_rotation("hadamard", 2).float()
    assert measure_privilege(turned)[0] == pytest.approx(0.0, abs=1e-6)
