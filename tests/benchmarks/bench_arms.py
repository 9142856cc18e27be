"""What arms side by side cost, against one run of the whole model after another (`make bench`)."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable

import torch
from support.planted import wrap_model
from transformers import LlamaConfig, LlamaForCausalLM

from sw_audit.checkpoint.opening import Checkpoint
from sw_audit.measure.engine import run_arms
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Custom, Quantize, Scale

RECIPES = ("int4/row", "int4/64x64", "int4/tensor")


def build() -> Checkpoint:
    """Build a random Llama of about 120 million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    return wrap_model(LlamaForCausalLM(config))


def list_arms(checkpoint: Checkpoint) -> list[Arm]:
    down = checkpoint.layers[4].down_projection
    assert down is not None
    group = (AddressGroup(parameter=down.parameter, rows=(5,), columns=(7,)),)
    zeroed = [
        Arm(purpose=Custom(label=f"zero {number}"), acts=(Scale(addresses=group, factor=0.0),))
        for number in range(4)
    ]
    return [
        BASELINE,
        *zeroed,
        *(Arm(purpose=Custom(label=name), acts=(Quantize(recipe=parse_recipe(name)),)) for name in RECIPES),
    ]


def run_separately(checkpoint: Checkpoint, arms: list[Arm], token_ids: torch.Tensor) -> None:
    """Run each arm on a copy of the model that is changed for good: the obvious way."""
    for arm in arms:
        model = wrap_model(copy.deepcopy(checkpoint.model))
        with torch.no_grad():
            for act in arm.acts:
                if isinstance(act, Quantize):
                    for layer in model.layers:
                        for matrix in layer.matrices:
                            matrix.weight.copy_(round_to_nearest(matrix.weight, act.recipe))
                elif isinstance(act, Scale):
                    for group in act.addresses:
                        model.matrix(group.parameter).weight[group.rows[0], group.columns[0]] *= act.factor
            model.model(input_ids=token_ids, use_cache=False)


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds and by how many bytes the process's peak memory grew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    work()
    return time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_arms_side_by_side_against_separate_runs() -> None:
    checkpoint = build()
    arms = list_arms(checkpoint)
    token_ids = torch.randint(0, 8000, (4, 256))
    # Ours goes first: peak memory only ever grows, so the second figure is what it takes beyond ours.
    ours, ours_bytes = measure(lambda: run_arms(checkpoint, arms, [token_ids], lambda *_: None))
    theirs, theirs_bytes = measure(lambda: run_separately(checkpoint, arms, token_ids))
    size = sum(parameter.numel() * parameter.element_size() for parameter in checkpoint.model.parameters())
    print(f"\n{len(arms)} arms, {size / 1e6:.0f} MB of weights, 4 x 256 tokens, {torch.get_num_threads()} threads")
    print("| way | seconds | peak memory beyond what stood before |")
    print("|---|---|---|")
    print(f"| side by side, layer by layer | {ours:.2f} | {ours_bytes / 1e6:.0f} MB |")
    print(f"| a changed copy of the model per arm | {theirs:.2f} | {theirs_bytes / 1e6:.0f} MB more |")
    print(f"ratio of seconds, ours to theirs: {ours / theirs:.2f}")
    assert ours > 0
