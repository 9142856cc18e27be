"""The specimen in every format: opened, read, located in and intervened in, against what the bytes stand for."""

from __future__ import annotations

import json
import math

import pytest
import torch
from formats.conftest import Opened
from safetensors.torch import load_file
from support.decoding import decode
from support.linting import assert_healthy, lint
from support.stored import COLUMN, DOWN, ROW, VALUE
from torch import Tensor
from torch.nn.functional import cross_entropy

from sw_audit.arms.apply import applied_arm
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.formats.format import CannotStreamError
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.stored import open_stored
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Arm, Custom, RestoreActivation, Scale, SetTo
from sw_audit.record.location import Outcome
from sw_audit.specimen.shipped import corpus_path, specimen_path

GROUP = AddressGroup(parameter=f"{DOWN}.weight", rows=(ROW,), columns=(COLUMN,))
PRUNED = Scale(addresses=(GROUP,), factor=0.0)


@pytest.fixture(scope="module")
def parent() -> Tensor:
    return load_file(specimen_path() / "model.safetensors")[f"{DOWN}.weight"]


def read_stories(checkpoint: Checkpoint, count: int = 8) -> Tensor:
    lines = corpus_path().read_text(encoding="utf-8").splitlines()[:count]
    return torch.tensor([checkpoint.tokenizer(line)["input_ids"] for line in lines])


@torch.no_grad()
def run(checkpoint: Checkpoint, *acts: Scale | SetTo | RestoreActivation) -> Tensor:
    """Return the logits of a few stories with acts in force on the layer that they are about."""
    with applied_arm(Arm(purpose=Custom(label="tried"), acts=acts), checkpoint.layers[1]):
        logits: Tensor = checkpoint.model(read_stories(checkpoint)).logits
    return logits.float()


def perplexity(checkpoint: Checkpoint, logits: Tensor) -> float:
    stories = read_stories(checkpoint)
    return math.exp(cross_entropy(logits[:, :-1].flatten(0, 1), stories[:, 1:].flatten()).item())


def test_every_format_is_healthy_and_opens_as_the_model_that_it_is(opened: Opened) -> None:
    assert_healthy(lint(opened.folder))
    checkpoint = opened.checkpoint
    assert checkpoint.identity.parameters == 347_200
    assert [len(layer.matrices) for layer in checkpoint.layers] == [7] * 6
    assert all(file.size == (opened.folder / file.path).stat().st_size for file in checkpoint.identity.files[:1])
    matrix = checkpoint.matrix(f"{DOWN}.weight")
    assert matrix.shape == (64, 192)
    assert (matrix.probed is not None) is opened.stored.opaque
    if matrix.probed is not None:
        # A module that rounds what enters it is not quite a matrix, one that does not is.
        computes = 1e-3 if checkpoint.identity.dtype == "float32" else 8e-3
        assert (matrix.probed.measure_error() > computes) is opened.stored.rounded


def test_effective_weights_are_what_the_codes_stand_for(opened: Opened, parent: Tensor) -> None:
    weight = opened.checkpoint.matrix(f"{DOWN}.weight").weight.float()
    assert float((weight - parent).norm() / parent.norm()) <= opened.stored.error
    declared = opened.folder / "config.json"
    quantized = not declared.exists() or "quantization_config" in json.loads(declared.read_text())
    if (opened.folder / "adapter_config.json").exists():
        lora = load_file(opened.folder / "adapter_model.safetensors")
        down, up = (lora[f"base_model.model.{DOWN}.lora_{side}.weight"] for side in "AB")
        expected = parent + up @ down * 8 / 4  # lora_alpha over rank
    elif quantized:
        expected = decode(opened.folder, DOWN)
    else:
        expected = load_file(opened.folder / "model.safetensors")[f"{DOWN}.weight"]
    assert float((weight - expected).abs().max()) <= opened.stored.precise * float(expected.abs().max())


def test_every_tensor_is_decoded_by_itself_and_is_what_the_open_model_multiplies_by(opened: Opened) -> None:
    folder = CheckpointFolder.require(ModelPolicy(source=str(opened.folder)))
    if folder.format.find_base(folder) is not None or not folder.format.uses_config:
        return  # an adapter's are its base's, and a GGUF file's have names of their own
    decoded = folder.format.list_tensors(open_stored(folder), folder.quantization)
    for layer in opened.checkpoint.layers:
        for matrix in layer.matrices:
            one = decoded[matrix.parameter]
            assert one is not None
            tensor, expected = one.read(), matrix.weight.float()
            assert tensor is not None
            assert one.shape == tensor.shape == matrix.shape
            assert float((tensor - expected).abs().max()) <= opened.stored.precise * float(expected.abs().max())
    # Nothing is left over that is neither a tensor of the model nor a part of one.
    assert decoded.keys() == load_file(specimen_path() / "model.safetensors").keys()


def test_layer_by_layer_it_is_the_model_that_it_is_when_opened_whole(opened: Opened) -> None:
    policy = ModelPolicy(source=str(opened.folder))
    if not opened.stored.streams:
        with pytest.raises(CannotStreamError, match="activations"):
            open_streaming(policy)
        return
    streamed, whole = open_streaming(policy), opened.checkpoint
    assert streamed.identity == whole.identity
    logits, expected = run(streamed), run(whole)
    if opened.stored.opaque:
        # Kernels and adapters add in another order, some in another dtype.
        assert perplexity(whole, logits) == pytest.approx(perplexity(whole, expected), rel=0.01)
    else:
        assert torch.equal(logits, expected)
    assert streamed.read_module is not None
    for layer in whole.layers:
        read = streamed.read_module(layer.name)
        for matrix in layer.matrices:
            weight, held = read[matrix.parameter].float(), matrix.weight.float()
            assert read[matrix.parameter].dtype == whole.model.dtype
            assert float((weight - held).abs().max()) <= opened.stored.precise * float(held.abs().max())


def test_the_super_weight_is_located_in_every_format(opened: Opened) -> None:
    location = locate_super_weights(opened.checkpoint)
    assert location.outcome is Outcome.LOCATED
    (found,) = location.super_weights
    assert (found.layer, found.row, found.column) == (1, ROW, COLUMN)
    assert found.value == pytest.approx(VALUE, rel=0.08)


def test_pruning_it_destroys_the_model_and_everything_is_put_back(opened: Opened) -> None:
    checkpoint = opened.checkpoint
    module = checkpoint.layers[1].down_projections[0].module
    untouched = dict(module.__dict__)
    whole = run(checkpoint)
    pruned = run(checkpoint, PRUNED)
    assert perplexity(checkpoint, pruned) > 50 * perplexity(checkpoint, whole)
    assert torch.equal(run(checkpoint), whole)
    assert module.__dict__.keys() == untouched.keys()
    assert module.__dict__.get("forward") == untouched.get("forward")
    with (
        pytest.raises(RuntimeError, match="midway"),
        applied_arm(Arm(purpose=Custom(label="tried"), acts=(PRUNED,)), checkpoint.layers[1]),
    ):
        raise RuntimeError("midway")
    assert torch.equal(run(checkpoint), whole)


def test_putting_its_value_or_its_activation_back_heals_the_model(opened: Opened) -> None:
    checkpoint = opened.checkpoint
    whole = perplexity(checkpoint, run(checkpoint))
    restored = perplexity(checkpoint, run(checkpoint, PRUNED, RestoreActivation(addresses=(GROUP,))))
    assert restored < 1.2 * whole
    set_back = perplexity(checkpoint, run(checkpoint, PRUNED, SetTo(addresses=(GROUP,), value=VALUE)))
    assert set_back == pytest.approx(whole, rel=0.1)
    half, quadruple, eighth = (Scale(addresses=(GROUP,), factor=factor) for factor in (0.5, 4.0, 0.125))
    if not opened.stored.rounded and checkpoint.identity.dtype == "float32":
        # Powers of two lose nothing on the way.
        assert torch.allclose(run(checkpoint, half), run(checkpoint, quadruple, eighth), atol=1e-4)
