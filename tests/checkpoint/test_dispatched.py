"""A model that accelerate has put partly on disk gives what it gives in memory, bit for bit, in every arm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import GPT2, LLAMA, Family, make_model, make_tokenizer
from support.engine import MIXED, collect, do_everything, make_arm, make_windows, name_scalar
from torch import nn

from sw_audit.arms.apply import applied_arm
from sw_audit.checkpoint.families import find_layer_modules
from sw_audit.checkpoint.lint import lint_live
from sw_audit.checkpoint.live import open_live_model
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.checkpoint.parameters import list_parameters
from sw_audit.critical.gradients import rank_scalars
from sw_audit.errors import CheckpointError
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import BASELINE, Arm, Scale, SetScalars

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
FAMILIES = (LLAMA, GPT2, MIXED["mixtral"])
IDS = torch.tensor([[1, 5, 6, 7]])


def dispatch(model: Any, folder: Path) -> Any:
    """Put on disk every second layer, of the first one the MLP, the embedding, and what follows the layers."""
    places = {name: "cpu" for name, module in model.named_modules() if [*module._parameters, *module._buffers]}
    names = {module: name for name, module in model.named_modules()}
    first, *others = (f"{names[module]}." for module in find_layer_modules(model))
    ends = [names[model.get_input_embeddings()], names[model.get_output_embeddings()]]
    for name in places:
        within_first = name.startswith(first) and "mlp" in name
        if name.startswith(tuple(others[::2])) or within_first or name in ends or "norm" in name or "ln_f" in name:
            places[name] = "disk"
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))


@contextmanager
def lend(family: Family, folder: Path | None = None) -> Iterator[Checkpoint]:
    """Lend a model, from disk as far as that goes if there is a folder."""
    model = make_model(family)
    with open_live_model(model if folder is None else dispatch(model, folder), make_tokenizer()) as checkpoint:
        yield checkpoint


def list_arms(checkpoint: Checkpoint) -> list[Arm]:
    """Return arms on a layer that is partly on disk, on one that is there as a whole, and outside of both."""
    addresses = [name_scalar(layer.down_projections[-1]) for layer in checkpoint.layers]
    outside = [one for one in list_parameters(checkpoint) if one.layer is None]
    gain = next(one for one in list_parameters(checkpoint) if one.layer == 1 and one.is_gain)
    scalars = [ScalarAddress(parameter=one.name, index=(1,) * len(one.shape)) for one in (gain, *outside)]
    return [
        BASELINE,
        *(make_arm(Scale(addresses=(address,), factor=0.0)) for address in addresses[:2]),
        do_everything(addresses[1]),
        *(make_arm(SetScalars(scalars=(scalar,), values=(3.0,))) for scalar in scalars),
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_arm_gives_what_it_gives_in_memory(family: Family, tmp_path: Path) -> None:
    found = []
    for folder in (None, tmp_path):
        with lend(family, folder) as checkpoint:
            arms = list_arms(checkpoint)
            seen = collect(checkpoint, arms)
            again = collect(checkpoint, arms[:1])
        assert all(torch.equal(again[batch, 0], seen[batch, 0]) for batch, _ in again)
        found.append(seen)
    assert all(torch.equal(logits, found[1][key]) for key, logits in found[0].items())
    differing = {arm for batch, arm in found[0] if not torch.equal(found[0][batch, arm], found[0][batch, 0])}
    assert differing == set(range(1, len(arms)))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradients_and_everything_that_is_read_are_those_in_memory(family: Family, tmp_path: Path) -> None:
    told = []
    for folder in (None, tmp_path):
        with lend(family, folder) as checkpoint:
            ranking = rank_scalars(checkpoint, make_windows(2, 1, 8, 60), products=8)
            ranked = [
                [(one.parameter.name, one.index, one.score, one.value) for one in some]
                for some in (ranking.by_gradient, ranking.by_product, ranking.feeding)
            ]
            parameters = [
                (one.name, one.names, one.offset, one.weight.tolist()) for one in list_parameters(checkpoint)
            ]
            read = [one.read((1,) * len(one.shape)) for one in list_parameters(checkpoint)]
            identity, report = checkpoint.identity, lint_live(checkpoint)
        told.append((ranked, parameters, read, ranking.nats, identity, report.intact, report.tensors))
    assert told[0] == told[1]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_afterwards_it_waits_as_it_did(family: Family, tmp_path: Path) -> None:
    model = dispatch(make_model(family), tmp_path)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
    held = {name: (id(one), one.is_meta) for name, one in model.named_parameters()}
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with open_live_model(model, make_tokenizer()) as checkpoint:
        present = [all(not one.is_meta for one in layer.module.parameters()) for layer in checkpoint.layers]
        assert not any(present[1::2])
        with checkpoint.layers[1].present() as layer, checkpoint.layers[1].present():
            assert not any(one.is_meta for one in layer.module.parameters())
            assert not any(matrix.weight.is_meta for matrix in layer.matrices)
            with applied_arm(
                make_arm(Scale(addresses=(name_scalar(layer.down_projections[-1]),), factor=0.0)), layer
            ):
                changed = model(input_ids=IDS).logits
        assert all(one.is_meta for one in layer.module.parameters())
        assert torch.equal(model(input_ids=IDS).logits, before)
    assert not torch.equal(changed, before)
    assert held == {name: (id(one), one.is_meta) for name, one in model.named_parameters()}
    assert forwards == {name: vars(module).get("forward") for name, module in model.named_modules()}
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, before)


def test_a_layer_that_is_not_there_cannot_be_changed_in_silence(tmp_path: Path) -> None:
    with lend(LLAMA, tmp_path) as checkpoint:
        layer = checkpoint.layers[1]
        arm = make_arm(Scale(addresses=(name_scalar(layer.down_projections[0]),), factor=0.0))
        with pytest.raises(ValueError, match="only while they are in memory"), applied_arm(arm, layer):
            pytest.fail("it was changed")


def split_(model: Any) -> None:
    model.model.layers[1].mlp.up_proj._hf_hook.execution_device = "cuda:0"


def pack_(model: Any) -> None:
    linear: nn.Linear = model.model.layers[1].mlp.up_proj
    linear._old_forward = partial(type(linear).forward, linear)


@pytest.mark.parametrize(
    ("spoil_", "said"),
    [
        (split_, "decoder layer 1: it is split over cpu and cuda:0; keep each decoder layer on one device in"),
        (pack_, "decoder layer 1: its weights are packed, and are in memory only while it runs; keep packed"),
    ],
)
def test_what_cannot_be_changed_in_place_is_refused_in_one_line(spoil_: Any, said: str, tmp_path: Path) -> None:
    model = dispatch(make_model(LLAMA), tmp_path)
    spoil_(model)
    with pytest.raises(CheckpointError, match=said), open_live_model(model, make_tokenizer()):
        pytest.fail("it was lent")
