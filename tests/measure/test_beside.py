"""A parent and its descendant side by side give what each gives alone, bit for bit, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import DEEPSEEK, DENSE, EXPERTS, LLAMA, VISION, Family, make_model, save_checkpoint
from support.experts import make_experts
from support.planted import build_llama, wrap_model
from torch import nn

from sw_audit.checkpoint.matrices import DecoderLayer
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.measure.engine import run_arms
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import Arm, SetTo, SwapModules
from sw_audit.record.descent import DESCENDANT, PARENT, RESTORED_WEIGHTS, name_restored_module

AS_IT_IS = [Arm(name=PARENT), Arm(name=DESCENDANT)]
ROW, COLUMN, LAYER = 17, 11, 1
MIXED = (*EXPERTS, *DEEPSEEK)
# One for each way of calling layers, of returning from them, and of keeping their matrices.
QUICK = {"llama", "bloom", "falcon", "gpt2", "opt", "mixtral", "gpt_oss", "deepseek_v3", "qwen2_vl"}


def batches() -> list[torch.Tensor]:
    texts = torch.randint(3, 60, (5, 9), generator=torch.Generator().manual_seed(3))
    texts[:, 0] = 1
    return [texts[:3], texts[3:], texts[:2, :4]]


def disturb(parent: Checkpoint, scale: float = 0.05) -> Checkpoint:
    """Make a descendant: a copy with some noise on everything."""
    made = copy.deepcopy(parent.model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += scale * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return wrap_model(made)


def run_alone(checkpoint: Checkpoint, change_: Callable[[Any], object] = lambda _: None) -> list[torch.Tensor]:
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        change_(model)
        return [model(input_ids=token_ids, use_cache=False).logits for token_ids in batches()]


def run_beside(
    parent: Checkpoint, descendant: Checkpoint, arms: list[Arm], observer: Any = None
) -> dict[int, list[torch.Tensor]]:
    seen: dict[int, list[torch.Tensor]] = {number: [] for number in range(len(arms))}

    def read(_: int, arm: int, logits: torch.Tensor, baseline: torch.Tensor) -> None:
        seen[arm].append(logits.clone())
        assert torch.equal(baseline, seen[0][-1])

    run_arms(descendant, arms, batches(), read, parent=parent, observer=observer)
    return seen


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def name_module(checkpoint: Checkpoint) -> str:
    return checkpoint.layers[LAYER].down_projections[-1].parameter.rpartition(".")[0]


def check_every_arm(parent: Checkpoint, descendant: Checkpoint, reference: Checkpoint) -> None:
    """Hold the four kinds of arms against whole models; `reference` is the parent with its weights in memory."""
    down = descendant.layers[LAYER].down_projections[-1]
    value = float(reference.layers[LAYER].down_projections[-1].weight[ROW, COLUMN])
    group = AddressGroup(parameter=down.parameter, rows=(ROW,), columns=(COLUMN,), expert=down.expert)
    module = name_module(descendant)
    arms = [
        *AS_IT_IS,
        Arm(name=RESTORED_WEIGHTS, acts=(SetTo(addresses=(group,), value=value),)),
        Arm(name=name_restored_module(module), acts=(SwapModules(modules=(module,)),)),
    ]
    before = {name: tensor.clone() for name, tensor in descendant.model.state_dict().items()}
    modules = dict(descendant.model.named_modules())
    seen = run_beside(parent, descendant, arms)

    def write_scalar_(model: nn.Module) -> None:
        own = wrap_model(model)
        own.layers[LAYER].down_projections[-1].weight[ROW, COLUMN] = value

    def put_module_(model: nn.Module) -> None:
        model.get_submodule(module).load_state_dict(reference.model.get_submodule(module).state_dict())

    assert equal(seen[0], run_alone(reference))
    assert equal(seen[1], run_alone(descendant))
    assert equal(seen[2], run_alone(descendant, write_scalar_))
    assert equal(seen[3], run_alone(descendant, put_module_))
    for one in range(4):
        for two in range(one):
            assert not equal(seen[one], seen[two]), (one, two)
    assert all(torch.equal(tensor, before[name]) for name, tensor in descendant.model.state_dict().items())
    assert dict(descendant.model.named_modules()) == modules
    for checkpoint in (parent, descendant):
        assert not any("forward" in one.__dict__ for one in checkpoint.model.modules())


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=str(family), marks=() if str(family) in QUICK else pytest.mark.slow)
        for family in (*DENSE, *VISION, *EXPERTS, *DEEPSEEK)
    ],
)
def test_every_arm_equals_a_run_of_a_whole_model_bit_for_bit(family: Family) -> None:
    parent = wrap_model(make_experts(family) if family in MIXED else make_model(family))
    check_every_arm(parent, disturb(parent), parent)


def test_a_parent_that_is_read_layer_by_layer_gives_the_same_and_is_never_there_as_a_whole(tmp_path: Path) -> None:
    wanted = ModelPolicy(source=str(save_checkpoint(tmp_path / "parent", LLAMA)))
    whole, parent = open_checkpoint(wanted), open_streaming(wanted)
    check_every_arm(parent, disturb(whole), whole)

    def count_present() -> int:
        return sum(any(not one.is_meta for one in layer.module.parameters()) for layer in parent.layers)

    present: list[int] = []

    class Counter:
        def watching(self, arm: int, layer: DecoderLayer) -> Any:
            if arm == 0:
                layer.module.mlp.register_forward_hook(lambda *_: present.append(count_present()))
            return nullcontext()

        def see(self, *_: object) -> None:
            present.append(count_present())

    run_beside(parent, disturb(whole), AS_IT_IS, Counter())
    # Three layers; of each, three batches while it runs, and then none is left.
    assert present == [1, 1, 1, 0] * 3


def test_a_layer_is_read_once_for_its_arms_and_not_to_record_how_it_is_called(tmp_path: Path) -> None:
    wanted = ModelPolicy(source=str(save_checkpoint(tmp_path / "parent", LLAMA)))
    ran: list[int] = []
    parent = open_streaming(wanted, on_layer=ran.append)
    run_beside(parent, disturb(open_checkpoint(wanted)), AS_IT_IS)
    # Once to learn the outputs' shapes, then batch by batch.
    assert ran == [0, 1, 2, *[0] * 3, *[1] * 3, *[2] * 3]


def test_what_is_put_back_shares_the_descendants_states_up_to_its_layer() -> None:
    parent = wrap_model(make_model(LLAMA))
    descendant = disturb(parent)
    ran: list[int] = []
    for depth, layer in enumerate(descendant.layers):
        layer.module.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    arm = Arm(name="b", acts=(SwapModules(modules=(name_module(descendant),)),))
    run_beside(parent, descendant, [*AS_IT_IS, arm])
    # Once each to learn the outputs' shapes; then three batches, from layer 1 on in two arms.
    assert ran == [0, 1, 2, *[0] * 3, *[1] * 6, *[2] * 6]


def test_a_borrowed_module_computes_in_the_dtype_of_the_parent() -> None:
    parent = wrap_model(make_model(LLAMA))
    descendant = wrap_model(copy.deepcopy(parent.model).to(torch.bfloat16))
    module = name_module(descendant)
    seen = run_beside(parent, descendant, [*AS_IT_IS, Arm(name="b", acts=(SwapModules(modules=(module,)),))])

    def put_module_(model: Any) -> None:
        wide = copy.deepcopy(parent.model.get_submodule(module))
        wide.register_forward_pre_hook(lambda _, inputs: inputs[0].float())
        wide.register_forward_hook(lambda _, __, output: output.bfloat16())
        model.model.layers[LAYER].mlp.down_proj = wide

    assert equal(seen[2], run_alone(descendant, put_module_))
    assert not equal(seen[2], seen[1])


def test_a_descendant_may_have_fewer_layers_or_more_tokens() -> None:
    parent = wrap_model(build_llama(layers=6))
    descendant = wrap_model(build_llama(layers=4, seed=1))
    descendant.model.resize_token_embeddings(103)
    for one, two in ((parent, descendant), (descendant, parent)):
        seen = run_beside(one, two, AS_IT_IS)
        assert equal(seen[0], run_alone(one))
        assert equal(seen[1], run_alone(two))


@pytest.mark.parametrize(
    ("module", "who"), [("mlp.gone", "the model has no such"), ("mlp.extra", "the parent has no such")]
)
def test_a_module_that_one_of_the_two_lacks_cannot_be_borrowed(module: str, who: str) -> None:
    parent = wrap_model(make_model(LLAMA))
    descendant = disturb(parent)
    descendant.model.model.layers[LAYER].mlp.extra = nn.Identity()
    arm = Arm(name="b", acts=(SwapModules(modules=(f"model.layers.{LAYER}.{module}",)),))
    with pytest.raises(CheckpointError, match=who):
        run_beside(parent, descendant, [*AS_IT_IS, arm])
    assert equal(run_alone(descendant), run_beside(parent, descendant, AS_IT_IS)[1])


def test_nothing_can_be_borrowed_where_there_is_no_parent() -> None:
    descendant = wrap_model(make_model(LLAMA))
    arm = Arm(name="b", acts=(SwapModules(modules=(name_module(descendant),)),))
    with pytest.raises(ValueError, match="only where a parent runs"):
        run_arms(descendant, [AS_IT_IS[1], arm], batches(), lambda *_: None)


def test_parent_and_descendant_come_first_as_they_are() -> None:
    parent = wrap_model(make_model(LLAMA))
    arm = Arm(name="b", acts=(SwapModules(modules=(name_module(parent),)),))
    with pytest.raises(ValueError, match="must be the baseline, not 'b'"):
        run_beside(parent, disturb(parent), [AS_IT_IS[0], arm])
