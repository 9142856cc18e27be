"""What the tests of arms and of the engine share: batches, runs side by side and alone, and fingerprints."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from support.checkpoints import DEEPSEEK, EXPERTS, Family, make_model
from support.experts import make_experts, take_experts_apart_
from support.planted import wrap_model
from torch import Tensor

from sw_audit.checkpoint.matrices import DownProjection
from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.corpus.windows import Windows
from sw_audit.measure.engine import run_arms
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Act, Arm, Custom, Quantize, RestoreActivation, Scale, SetTo

MIXED = {str(family): family for family in (*EXPERTS, *DEEPSEEK)}
"""Families with experts."""
LAYER, EXPERT, ROW, COLUMN = 1, 2, 17, 11
"""Where the arms of these tests change a scalar."""

Logits = dict[tuple[int, int], Tensor]
"""By batch and arm."""


def make_windows(count: int, seed: int, length: int = 16, vocabulary: int = 101) -> Windows:
    token_ids = torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))
    token_ids[:, 0] = 1
    return Windows(token_ids, torch.ones(count, dtype=torch.long), bos=1)


def make_batches() -> list[Tensor]:
    texts = make_windows(5, 3, 9, 60).token_ids
    return [texts[:3], texts[3:], texts[:2, :4]]


def open_family(family: Family) -> Checkpoint:
    return wrap_model(make_experts(family) if str(family) in MIXED else make_model(family))


def open_experts(name: str) -> Checkpoint:
    """Open a model with experts, or Mixtral with a module per expert (`apart`)."""
    model = make_experts(MIXED["mixtral" if name == "apart" else name])
    if name == "apart":
        take_experts_apart_(model)
    return wrap_model(model)


def find_expert(checkpoint: Checkpoint) -> DownProjection:
    downs = checkpoint.layers[LAYER].down_projections
    return next((down for down in downs if down.expert == EXPERT), downs[EXPERT])


def name_scalar(down: DownProjection, row: int = ROW, column: int = COLUMN) -> AddressGroup:
    return AddressGroup(parameter=down.parameter, rows=(row,), columns=(column,), expert=down.expert)


def make_arm(*acts: Act, label: str = "x") -> Arm:
    return Arm(purpose=Custom(label=label), acts=acts)


def do_everything(group: AddressGroup) -> Arm:
    return make_arm(
        Scale(addresses=(group,), factor=3.0),
        SetTo(addresses=(group,), value=0.1),
        RestoreActivation(addresses=(group,)),
        Quantize(recipe=parse_recipe("int3/row"), holdout=(group,)),
        label="everything",
    )


def collect(
    checkpoint: Checkpoint, arms: Sequence[Arm], batches: Sequence[Tensor] | None = None, **options: Any
) -> Logits:
    """Run arms side by side and return all logits."""
    seen: Logits = {}
    given = make_batches() if batches is None else batches

    def read(batch: int, arm: int, places: Tensor, logits: Tensor, baseline: Tensor) -> None:
        assert places.tolist() == list(range(given[batch].numel()))
        seen[batch, arm] = logits.clone().unflatten(0, given[batch].shape)
        assert torch.equal(baseline.unflatten(0, given[batch].shape), seen[batch, 0])

    run_arms(checkpoint, arms, given, read, **options)
    return seen


def run_alone(checkpoint: Checkpoint, change_: Callable[[Checkpoint], object] = lambda _: None) -> list[Tensor]:
    """Run a copy of the whole model, changed for good, one batch after the other."""
    alone = copy_of(checkpoint)
    with torch.no_grad():
        change_(alone)
        return [alone.model(input_ids=token_ids, use_cache=False).logits for token_ids in make_batches()]


def equals(seen: Logits, arm: int, expected: Sequence[Tensor]) -> bool:
    """Tell whether an arm's logits are these, bit for bit."""
    return all(torch.equal(seen[batch, arm], logits) for batch, logits in enumerate(expected))


def copy_of(checkpoint: Checkpoint, **settings: Any) -> Checkpoint:
    return wrap_model(copy.deepcopy(checkpoint.model).to(**settings), checkpoint.tokenizer)


def disturb(parent: Checkpoint, scale: float = 0.05) -> Checkpoint:
    """Make a descendant: a copy with some noise on everything."""
    descendant = copy_of(parent)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in descendant.model.parameters():
            parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return descendant


def fingerprint(checkpoint: Checkpoint) -> str:
    """Digest every tensor, where it is, every module and hook; no module may have a forward of its own."""
    digest = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        digest.update(f"{name} {tensor.data_ptr()}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    for name, module in checkpoint.model.named_modules():
        digest.update(
            f"{name} {id(module)} {len(module._forward_hooks)} {len(module._forward_pre_hooks)}".encode()
        )
        assert "forward" not in module.__dict__
    return digest.hexdigest()
