"""Arms side by side give what separate runs of whole models give, bit for bit, and leave no trace.

So do a parent and its descendant.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import DEEPSEEK, DENSE, EXPERTS, GPT2, LLAMA, VISION, Family, make_model, save_checkpoint
from support.engine import (
    COLUMN,
    LAYER,
    MIXED,
    ROW,
    collect,
    disturb,
    do_everything,
    equals,
    find_expert,
    fingerprint,
    make_arm,
    make_batches,
    make_windows,
    name_scalar,
    open_experts,
    open_family,
    run_alone,
)
from support.planted import Planted, build_llama, plant_, wrap_model
from support.readings import find_both_ways
from torch import Tensor
from torch.utils._pytree import tree_flatten
from transformers.pytorch_utils import Conv1D

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.errors import CheckpointError
from sw_audit.measure.engine import LayerwiseRunner, give_logits, run_arms
from sw_audit.measure.states import States, StateStore
from sw_audit.policy.policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.address import ScalarAddress
from sw_audit.record.arm import BASELINE, DESCENDANT, PARENT, Arm, Quantize, Scale, SetScalars, SetTo, SwapModules

AS_IT_IS = [Arm(purpose=PARENT), Arm(purpose=DESCENDANT)]
RECIPE = parse_recipe("int4/16x16")
# One for each way of calling layers, of returning from them, and of keeping their matrices.
QUICK = "llama bloom falcon gptj gpt_neo gpt2 opt mixtral gpt_oss deepseek_v3 qwen2_vl"
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=str(family), marks=() if str(family) in QUICK.split() else pytest.mark.slow)
        for family in (*DENSE, *VISION, *EXPERTS, *DEEPSEEK)
    ],
)


def weight_of(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.layers[LAYER].down_projections[-1].weight


def scale_(checkpoint: Checkpoint) -> None:
    weight_of(checkpoint)[ROW, COLUMN] *= 300.0


def set_(checkpoint: Checkpoint) -> None:
    weight_of(checkpoint)[ROW, COLUMN] = -25.0


def round_(checkpoint: Checkpoint) -> None:
    kept = weight_of(checkpoint)[ROW, COLUMN].clone()
    for layer in checkpoint.layers:
        for matrix in layer.matrices:
            own = matrix.weight.data_ptr() == weight_of(checkpoint).data_ptr()
            holdout = (torch.tensor([ROW]), torch.tensor([COLUMN])) if own else None
            matrix.weight.copy_(round_to_nearest(matrix.weight, RECIPE, holdout))
    assert weight_of(checkpoint)[ROW, COLUMN] == kept


@every_family
def test_arms_side_by_side_equal_separate_runs_bit_for_bit(family: Family) -> None:
    checkpoint = open_family(family)
    group = (name_scalar(checkpoint.layers[LAYER].down_projections[-1]),)
    changes: dict[Arm, Callable[[Checkpoint], object]] = {
        BASELINE: lambda _: None,
        make_arm(Scale(addresses=group, factor=300.0), label="scaled"): scale_,
        make_arm(SetTo(addresses=group, value=-25.0), label="set"): set_,
        make_arm(Quantize(recipe=RECIPE, holdout=group), label="rounded"): round_,
    }
    before = fingerprint(checkpoint)
    seen = collect(checkpoint, list(changes))
    assert fingerprint(checkpoint) == before
    for number, change_ in enumerate(changes.values()):
        assert equals(seen, number, run_alone(checkpoint, change_)), number
        assert number == 0 or not torch.equal(seen[0, 0], seen[0, number])


@pytest.mark.parametrize("name", [*MIXED, "apart", "llama", "gpt2"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_bit_identical_afterwards_also_after_an_exception(name: str, fails: bool) -> None:
    dense = {str(family): family for family in DENSE}
    checkpoint = open_family(dense[name]) if name in dense else open_experts(name)
    down = checkpoint.layers[LAYER].down_projections[0] if name in dense else find_expert(checkpoint)
    arms = [BASELINE, do_everything(name_scalar(down))]
    before = fingerprint(checkpoint)
    if fails:
        # An expert that is a module of its own is called only when a token comes its way.
        calls = [1] * 3 if name == "apart" else []

        def fail(*_: object) -> None:
            calls.append(1)
            if len(calls) == 5:  # three batches of the baseline, then inside the acts
                raise RuntimeError("power cut")

        handle = down.module.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="power cut"):
            collect(checkpoint, arms)
        handle.remove()
    else:
        collect(checkpoint, arms)
    assert fingerprint(checkpoint) == before


@pytest.mark.parametrize("entry", [1, 3, 6], ids=["first", "in the baseline", "in an arm"])
def test_the_model_is_bit_identical_after_an_exception_at_the_entry_of_any_layer(entry: int) -> None:
    checkpoint = open_family(LLAMA)
    arm = do_everything(name_scalar(checkpoint.layers[0].down_projections[0]))
    before = fingerprint(checkpoint)
    for layer in checkpoint.layers:
        entries = iter(range(1, entry + 1))

        def fail(*_: object, entries: Iterator[int] = entries) -> None:
            if next(entries) == entry:
                raise RuntimeError("power cut")

        handle = layer.module.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="power cut"):
            collect(checkpoint, [BASELINE, arm])
        handle.remove()
        assert fingerprint(checkpoint) == before


def test_the_model_is_bit_identical_after_an_exception_in_a_reader() -> None:
    checkpoint, arms = open_with_zero()
    before = fingerprint(checkpoint)

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        run_arms(checkpoint, arms, make_batches(), fail)
    assert fingerprint(checkpoint) == before


def test_the_first_arm_must_be_the_baseline_and_with_a_parent_the_second_too() -> None:
    checkpoint, [_, zero] = open_with_zero()
    for arms, parent in (([zero], None), ([AS_IT_IS[0], zero], checkpoint)):
        with pytest.raises(ValueError, match="must be the baseline, not 'zero'"):
            collect(checkpoint, arms, parent=parent)


def test_peaks_are_the_largest_magnitudes_of_each_layers_output() -> None:
    checkpoint = wrap_model(build_llama())
    plant_(checkpoint, Planted(LAYER, ROW, COLUMN))
    with torch.no_grad():
        states = [
            checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[1:-1]
            for ids in make_batches()
        ]
    group = name_scalar(checkpoint.layers[LAYER].down_projections[0])
    huge = make_arm(Scale(addresses=(group,), factor=3e38), label="huge")
    runs = run_arms(checkpoint, [BASELINE, huge], make_batches(), lambda *_: None)
    for depth in range(len(checkpoint.layers) - 1):
        assert runs[0].peaks[depth] == max(float(of_batch[depth].abs().max()) for of_batch in states)
    # What is not finite has no peak.
    assert runs[1].peaks[LAYER - 1] is not None
    assert runs[1].peaks[LAYER] is None


def open_with_zero() -> tuple[Checkpoint, list[Arm]]:
    """Open a model, with the baseline and an arm that zeroes a scalar."""
    checkpoint = open_family(LLAMA)
    group = name_scalar(checkpoint.layers[LAYER].down_projections[0])
    return checkpoint, [BASELINE, make_arm(Scale(addresses=(group,), factor=0.0), label="zero")]


def test_an_arm_skips_the_batches_that_are_not_included_and_the_baseline_skips_none() -> None:
    checkpoint, arms = open_with_zero()
    everything = collect(checkpoint, arms)
    seen = collect(checkpoint, arms, included=lambda batch, arm: (batch, arm) == (2, 1))
    assert set(seen) == {(0, 0), (1, 0), (2, 0), (2, 1)}
    assert torch.equal(seen[2, 1], everything[2, 1])


@every_family
def test_logits_at_some_places_are_those_of_the_whole_batch(family: Family) -> None:
    checkpoint, arms = open_family(family), [BASELINE, make_arm(Quantize(recipe=RECIPE), label="rounded")]
    whole = collect(checkpoint, arms)
    # Of each batch pieces that are longer than a sequence, as long, and shorter.
    pieces = [
        (torch.arange(0, batch.numel(), 2), torch.tensor([3, 5]), torch.tensor([7])) for batch in make_batches()
    ]
    read: list[tuple[int, int, torch.Tensor]] = []

    def compare(batch: int, arm: int, places: torch.Tensor, logits: torch.Tensor, baseline: torch.Tensor) -> None:
        read.append((batch, arm, places))
        for seen, number in ((logits, arm), (baseline, 0)):
            torch.testing.assert_close(seen, whole[batch, number].flatten(0, 1)[places])

    run_arms(checkpoint, arms, make_batches(), compare, pieces=lambda batch: pieces[batch])
    expected = [(batch, arm, places) for batch in range(3) for places in pieces[batch] for arm in range(2)]
    assert read == expected


def test_the_head_sees_only_what_is_read() -> None:
    checkpoint, arms = open_with_zero()
    collect(checkpoint, [BASELINE])
    rows: list[int] = []
    head = checkpoint.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].flatten(0, -2).shape[0]))
    run_arms(checkpoint, arms, make_batches(), lambda *_: None, pieces=lambda _: [torch.tensor([1, 6])])
    handle.remove()
    # Two places of three batches in two arms, and nothing to record how layers are called.
    assert rows == [2] * 6


def test_arms_that_round_alike_share_states_up_to_the_layer_of_what_one_keeps() -> None:
    checkpoint = open_family(LLAMA)
    group = name_scalar(checkpoint.layers[LAYER].down_projections[0])
    elsewhere = name_scalar(checkpoint.layers[2].down_projections[0])
    arms = [
        BASELINE,
        make_arm(Quantize(recipe=RECIPE), label="plain"),
        make_arm(Quantize(recipe=RECIPE, holdout=(group,)), label="kept"),
        make_arm(Quantize(recipe=RECIPE, holdout=(group, elsewhere)), label="both kept"),
    ]
    alone = [collect(checkpoint, [BASELINE, arm])[0, 1] for arm in arms[1:]]
    ran: list[int] = []
    handles = [
        layer.module.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
        for depth, layer in enumerate(checkpoint.layers)
    ]
    seen = collect(checkpoint, arms)
    for handle in handles:
        handle.remove()
    # Three batches: one rounded arm in the first layer, two in the next, all three in the last.
    assert ran == [0] * 6 + [1] * 9 + [2] * 12
    assert all(torch.equal(seen[0, number], logits) for number, logits in enumerate(alone, start=1))


def test_an_arm_shares_nothing_with_one_that_ran_fewer_batches() -> None:
    checkpoint, [baseline, zero] = open_with_zero()
    arms = [baseline, zero, zero]
    everything = collect(checkpoint, arms)
    seen = collect(checkpoint, arms, included=lambda batch, arm: arm == 2 or batch != 1)
    assert set(seen) == {*everything} - {(1, 1)}
    assert all(torch.equal(logits, everything[place]) for place, logits in seen.items())


def test_calibrating_batches_are_run_in_the_baseline_alone_and_read_by_nobody() -> None:
    checkpoint, arms = open_with_zero()
    batches = [make_windows(2, seed, 9, 60).token_ids for seed in range(3)]
    calls = []
    handle = checkpoint.layers[LAYER].module.register_forward_hook(lambda *_: calls.append(1))
    seen = collect(checkpoint, arms, batches, calibrating=lambda batch: batch == 1)
    handle.remove()
    assert list(seen) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    # Three batches in the baseline and two in the arm; recordings run no layer.
    assert len(calls) == 5


def name_module(checkpoint: Checkpoint) -> str:
    return checkpoint.layers[LAYER].down_projections[-1].parameter.rpartition(".")[0]


def check_every_arm(parent: Checkpoint, descendant: Checkpoint, reference: Checkpoint) -> None:
    """Compare the four kinds of arms with whole models; `reference` is the parent with its weights in memory."""
    down = descendant.layers[LAYER].down_projections[-1]
    value, module = float(weight_of(reference)[ROW, COLUMN]), name_module(descendant)
    arms = [
        *AS_IT_IS,
        make_arm(SetTo(addresses=(name_scalar(down),), value=value), label="scalar"),
        make_arm(SwapModules(modules=(module,)), label="module"),
    ]
    before = fingerprint(descendant)
    seen = collect(descendant, arms, parent=parent)
    assert fingerprint(descendant) == before

    def write_scalar_(model: Checkpoint) -> None:
        weight_of(model)[ROW, COLUMN] = value

    def put_module_(model: Checkpoint) -> None:
        model.model.get_submodule(module).load_state_dict(reference.model.get_submodule(module).state_dict())

    assert equals(seen, 0, run_alone(reference))
    for number, change_ in enumerate((lambda _: None, write_scalar_, put_module_), start=1):
        assert equals(seen, number, run_alone(descendant, change_)), number
    logits = [seen[0, number] for number in range(4)]
    assert not any(torch.equal(logits[left], logits[right]) for left in range(4) for right in range(left))


@every_family
def test_every_arm_beside_a_parent_equals_a_run_of_a_whole_model_bit_for_bit(family: Family) -> None:
    parent = open_family(family)
    before = fingerprint(parent)
    check_every_arm(parent, disturb(parent), parent)
    assert fingerprint(parent) == before


def test_a_parent_that_is_read_layer_by_layer_gives_the_same_and_is_never_there_as_a_whole(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(save_checkpoint(tmp_path / "parent", LLAMA)))
    whole, parent = open_checkpoint(model), open_streaming(model)
    check_every_arm(parent, disturb(whole), whole)

    def count_present() -> int:
        return sum(any(not tensor.is_meta for tensor in layer.module.parameters()) for layer in parent.layers)

    present: list[int] = []

    class Counter:
        def see(self, *_: object) -> None:
            present.append(count_present())

    for layer in parent.layers:
        layer.module.mlp.register_forward_hook(lambda *_: present.append(count_present()))
    collect(disturb(whole), AS_IT_IS, parent=parent, observer=Counter())
    # Of each of the three layers three batches while it runs, and then none is left.
    assert present == [1, 1, 1, 0] * 3


def test_a_layer_is_read_once_for_its_arms_and_not_to_record_how_it_is_called(tmp_path: Path) -> None:
    model = ModelPolicy(source=str(save_checkpoint(tmp_path / "parent", LLAMA)))
    ran: list[int] = []
    collect(disturb(open_checkpoint(model)), AS_IT_IS, parent=open_streaming(model, on_layer=ran.append))
    # The first once more, to learn what layers return; then batch by batch.
    assert ran == [0, *[0] * 3, *[1] * 3, *[2] * 3]


def test_what_is_put_back_shares_the_descendants_states_up_to_its_layer() -> None:
    parent = open_family(LLAMA)
    descendant = disturb(parent)
    ran: list[int] = []
    for depth, layer in enumerate(descendant.layers):
        layer.module.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    arm = make_arm(SwapModules(modules=(name_module(descendant),)), label="b")
    collect(descendant, [*AS_IT_IS, arm], parent=parent)
    # The first once, to learn what layers return; then three batches, from layer 1 on in two arms.
    assert ran == [0, *[0] * 3, *[1] * 6, *[2] * 6]


@pytest.mark.parametrize("limit", [0, 5000])
@pytest.mark.parametrize("name", ["llama", "falcon", "mixtral", "gpt2"])
def test_states_that_wait_on_disk_change_no_bit_and_no_count_of_calls(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parent = open_family(next(family for family in (*DENSE, *EXPERTS) if str(family) == name))
    descendant = disturb(parent)
    group = name_scalar(descendant.layers[LAYER].down_projections[-1])
    module = next(iter(descendant.layers[-1].matrices)).parameter.removesuffix(".weight")
    embedding = next(
        key
        for key, one in descendant.model.named_parameters()
        if one is descendant.model.get_input_embeddings().weight
    )
    arms = [
        *AS_IT_IS,
        make_arm(Scale(addresses=(group,), factor=300.0), label="scaled"),
        make_arm(SwapModules(modules=(module,)), label="swapped"),
        set_to((embedding, (int(make_batches()[0][0, 1]), 3), 2.0)),
        make_arm(Quantize(recipe=RECIPE), label="rounded"),
    ]
    files: list[int] = []
    ran: list[int] = []

    class Summing:
        def __init__(self) -> None:
            self.sums: list[float] = []

        def see(
            self, _: object, __: object, entering: Iterable[Tensor], leaving: list[States], ___: object
        ) -> None:
            files.append(sum(path.is_file() for path in tmp_path.rglob("*")))
            self.sums += [float(one.double().sum()) for states in (entering, *leaving) for one in states]

    for layer in descendant.layers:
        layer.module.register_forward_hook(lambda *_: ran.append(1))
    seen, sums, counts, peaks = [], [], [], []
    for memory in (None, limit):
        ran.clear()
        observer = Summing()
        one = replace(descendant, memory=memory)
        options: dict[str, Any] = {"included": lambda batch, arm: batch != 1 or arm != 2, "parent": parent}
        seen.append(collect(one, arms, observer=observer, **options))
        runs = run_arms(one, arms, make_batches(), lambda *_: None, **options)
        peaks.append([run.peaks for run in runs])
        sums.append(observer.sums)
        counts.append(len(ran))
    assert seen[0].keys() == seen[1].keys()
    assert all(torch.equal(seen[0][key], seen[1][key]) for key in seen[0])
    assert (sums[0], counts[0], peaks[0]) == (sums[1], counts[1], peaks[1])
    assert files[: len(files) // 2] == [0] * (len(files) // 2)
    assert min(files[len(files) // 2 :]) > 3
    assert list(tmp_path.iterdir()) == []


def test_after_an_exception_no_state_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    checkpoint = replace(open_family(LLAMA), memory=0)

    def fail(*_: object) -> None:
        assert list(tmp_path.rglob("*.bin"))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run_arms(checkpoint, [BASELINE], make_batches(), fail)
    assert list(tmp_path.iterdir()) == []


def test_what_layers_are_called_with_is_there_once_for_batches_of_one_shape() -> None:
    runner = LayerwiseRunner(open_family(LLAMA), [*make_batches(), *make_batches()], StateStore())
    given, _ = tree_flatten([call.named for calls in runner.calls for call in calls])
    # Six batches of two lengths: cosines, sines and positions of each.
    assert len({id(leaf) for leaf in given if isinstance(leaf, Tensor)}) == 6


def test_a_descendant_may_have_fewer_layers_or_more_tokens() -> None:
    parent, descendant = wrap_model(build_llama(layers=6)), wrap_model(build_llama(layers=4, seed=1))
    descendant.model.resize_token_embeddings(103)
    for theirs, ours in ((parent, descendant), (descendant, parent)):
        seen = collect(ours, AS_IT_IS, parent=theirs)
        assert equals(seen, 0, run_alone(theirs))
        assert equals(seen, 1, run_alone(ours))


def set_to(*values: tuple[str, tuple[int, ...], float], label: str = "set") -> Arm:
    scalars = tuple(ScalarAddress(parameter=name, index=index) for name, index, _ in values)
    return make_arm(SetScalars(scalars=scalars, values=tuple(value for *_, value in values)), label=label)


def choose_scalars(checkpoint: Checkpoint) -> dict[ScalarAddress, tuple[int, ...]]:
    """Choose a scalar of every parameter of a layer and of all outside of layers, with where it is stored."""
    token = int(make_batches()[0][0, 1])
    layer = checkpoint.layers[LAYER]
    fused = {experts.module: experts for experts in layer.fused_experts}
    head, decoder = checkpoint.model.get_output_embeddings(), checkpoint.model.get_decoder()
    tables = [module for module in decoder.modules() if isinstance(module, torch.nn.Embedding)]
    chosen = {}
    for path, module in checkpoint.model.named_modules():
        inside = path.startswith(f"{layer.name}.")
        if not inside and (module not in (head, *decoder.modules()) or path.startswith("model.layers.")):
            continue
        if not inside and any(path.startswith(f"{other.name}.") for other in checkpoint.layers):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if any(stored[0] is parameter for stored in chosen.values()):
                continue
            index = tuple(min(size - 1, 3 + 2 * place) for place, size in enumerate(parameter.shape))
            if module in tables or module is head:
                index = (min(token, len(parameter) - 1) if len(parameter) == 60 else 4, 5)[: parameter.ndim]
            turned = isinstance(module, Conv1D) or (module in fused and fused[module].transposed)
            matrix = parameter.ndim > 1 and (module not in fused or parameter.ndim > 2)
            asked = (*index[:-2], index[-1], index[-2]) if turned and matrix else index
            address = ScalarAddress(parameter=f"{path}.{name}", index=asked)
            chosen[address] = (parameter, index)
    return {address: index for address, (_, index) in chosen.items()}


# Nothing depends on these: on what all keys have in common, and on what no token of the text is led to.
WITHOUT_EFFECT = ("k_proj.bias", "experts.", "rotary")


@every_family
def test_an_arm_that_sets_a_scalar_of_any_parameter_equals_a_model_changed_for_good(family: Family) -> None:
    checkpoint = open_family(family)
    chosen = choose_scalars(checkpoint)
    before = fingerprint(checkpoint)
    arms = [set_to((address.parameter, address.index, 4.0), label=str(address)) for address in chosen]
    seen = collect(checkpoint, [BASELINE, *arms])
    assert fingerprint(checkpoint) == before
    names = {address.parameter for address in chosen}
    assert {id(p) for p in checkpoint.model.get_output_embeddings().parameters()} <= {
        id(checkpoint.model.get_parameter(name)) for name in names
    }
    for number, (address, stored) in enumerate(chosen.items(), start=1):

        def set_(model: Checkpoint, address: ScalarAddress = address, stored: tuple[int, ...] = stored) -> None:
            model.model.get_parameter(address.parameter)[stored] = 4.0

        assert equals(seen, number, run_alone(checkpoint, set_)), address
        inert = any(part in address.parameter for part in WITHOUT_EFFECT)
        assert inert or not torch.equal(seen[0, 0], seen[0, number]), address


def count_layers(checkpoint: Checkpoint, arms: list[Arm]) -> tuple[list[int], int]:
    """Run arms, and return how often each layer ran and the head."""
    collect(checkpoint, [BASELINE])
    ran: list[int] = [0] * len(checkpoint.layers)
    heads: list[int] = []

    def count(depth: int) -> None:
        ran[depth] += 1

    modules = [layer.module for layer in checkpoint.layers]
    handles = [
        module.register_forward_hook(lambda *_, depth=depth: count(depth)) for depth, module in enumerate(modules)
    ]
    head = checkpoint.model.get_output_embeddings()
    handles.append(head.register_forward_hook(lambda *_: heads.append(1)))
    collect(checkpoint, arms)
    for handle in handles:
        handle.remove()
    return ran, len(heads)


@every_family
def test_an_arm_after_the_layers_costs_no_layer_and_one_before_them_all(family: Family) -> None:
    checkpoint = open_family(family)
    embedding = checkpoint.model.get_input_embeddings().weight
    tied = embedding is checkpoint.model.get_output_embeddings().weight
    names = {id(parameter): name for name, parameter in checkpoint.model.named_parameters()}
    inside = {id(parameter) for layer in checkpoint.layers for parameter in layer.module.parameters()}
    last = [name for key, name in names.items() if key not in inside][-1]  # of the head, or the last norm
    unread = set_to((names[id(embedding)], (0, 5), 4.0), label="unread")
    read = set_to((names[id(embedding)], (int(make_batches()[0][0, 1]), 5), 4.0), label="read")
    after = set_to((last, (5,) * checkpoint.model.get_parameter(last).ndim, 4.0), label="after")
    count = len(checkpoint.layers)
    assert count_layers(checkpoint, [BASELINE, after]) == ([3] * count, 6)
    assert count_layers(checkpoint, [BASELINE, unread, after]) == ([3] * count, 9)
    assert count_layers(checkpoint, [BASELINE, read]) == ([6] * count, 6)
    assert count_layers(checkpoint, [BASELINE, make_arm(label="nothing")]) == ([3] * count, 3)
    assert tied or equals(collect(checkpoint, [BASELINE, unread]), 1, run_alone(checkpoint))


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=str)
def test_tied_embedding_and_head_are_one_parameter_under_either_name(family: Family) -> None:
    checkpoint = wrap_model(make_model(family, tie_word_embeddings=True))
    names = [name for name, _ in checkpoint.model.named_parameters(remove_duplicate=False) if "norm" not in name]
    weight = checkpoint.model.get_output_embeddings().weight
    own = [name for name in names if checkpoint.model.get_parameter(name) is weight]
    assert len(own) == 2
    token = int(make_batches()[0][0, 1])
    seen = collect(checkpoint, [BASELINE, *(set_to((name, (token, 3), 4.0), label=name) for name in own)])

    def set_(model: Checkpoint) -> None:
        model.model.get_output_embeddings().weight[token, 3] = 4.0

    for number in (1, 2):
        assert equals(seen, number, run_alone(checkpoint, set_))
    untied = wrap_model(make_model(family, tie_word_embeddings=False))
    embedded, headed = (
        collect(untied, [BASELINE, *(set_to((name, (token, 3), 4.0), label=name) for name in own)]),
        run_alone(untied, set_),
    )
    assert equals(embedded, 2, headed)
    assert not equals(embedded, 1, headed)


def test_an_arm_may_set_scalars_before_in_and_after_the_layers_and_do_more() -> None:
    checkpoint = open_family(LLAMA)
    token = int(make_batches()[0][0, 1])
    group = (name_scalar(checkpoint.layers[LAYER].down_projections[0]),)
    values = {
        ("model.embed_tokens.weight", (token, 3)): 4.0,
        ("model.layers.0.input_layernorm.weight", (5,)): -2.0,
        ("model.layers.2.self_attn.v_proj.weight", (5, 7)): 3.0,
        ("model.norm.weight", (9,)): 0.0,
        ("lm_head.weight", (7, 9)): 8.0,
    }
    act = set_to(*((*where, value) for where, value in values.items())).acts[0]
    last = set_to(("model.norm.weight", (9,), 2.0)).acts[0]
    arm = make_arm(Scale(addresses=group, factor=300.0), act, last, label="all")

    def change_(model: Checkpoint) -> None:
        scale_(model)
        for (name, index), value in values.items():
            model.model.get_parameter(name)[index] = value
        model.model.get_parameter("model.norm.weight")[9] = 2.0

    before = fingerprint(checkpoint)
    seen = collect(checkpoint, [BASELINE, arm, BASELINE])
    assert equals(seen, 1, run_alone(checkpoint, change_))
    assert equals(seen, 2, run_alone(checkpoint))
    assert fingerprint(checkpoint) == before


def test_beside_a_parent_only_the_model_is_set() -> None:
    parent = open_family(LLAMA)
    descendant = disturb(parent)
    arm = set_to(("model.norm.weight", (9,), 4.0), ("model.layers.1.input_layernorm.weight", (5,), 4.0))
    seen = collect(descendant, [*AS_IT_IS, arm, make_arm(label="nothing")], parent=parent)

    def set_(model: Checkpoint) -> None:
        model.model.get_parameter("model.norm.weight")[9] = 4.0
        model.model.get_parameter("model.layers.1.input_layernorm.weight")[5] = 4.0

    expected = [run_alone(parent), run_alone(descendant), run_alone(descendant, set_), run_alone(descendant)]
    assert all(equals(seen, number, logits) for number, logits in enumerate(expected))


@pytest.mark.parametrize("fails_in", ["embedding", "layer", "head"])
def test_what_is_set_outside_of_layers_is_undone_after_an_exception(fails_in: str) -> None:
    checkpoint = open_family(LLAMA)
    collect(checkpoint, [BASELINE])
    token = int(make_batches()[0][0, 1])
    arm = set_to(("model.embed_tokens.weight", (token, 3), 4.0), ("lm_head.weight", (7, 9), 8.0))
    model = checkpoint.model
    places = {"embedding": model.get_input_embeddings(), "layer": model.model.layers[1], "head": model.lm_head}
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 5:  # three batches of the baseline, then in the arm
            raise RuntimeError("power cut")

    before = fingerprint(checkpoint)
    handle = places[fails_in].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="power cut"):
        collect(checkpoint, [BASELINE, arm])
    handle.remove()
    assert fingerprint(checkpoint) == before


class Learned(torch.nn.Module):
    """Positions that are a parameter: what every layer is called with comes from it."""

    def __init__(self, width: int, factor: float | None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.nn.Parameter(torch.randn(64, width, generator=generator), requires_grad=False)
        self.factor = factor

    def forward(self, _: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.table[None, : position_ids.shape[-1]]
        return (rows, rows) if self.factor is None else (rows * self.factor, rows * self.factor)


def test_what_every_layer_is_called_with_is_made_anew_where_it_depends_on_a_scalar() -> None:
    checkpoint = open_family(LLAMA)
    checkpoint.model.model.rotary_emb = Learned(24, 0.5)

    def set_(model: Checkpoint) -> None:
        model.model.model.rotary_emb.table[2, 3] = 4.0

    arms = [BASELINE, set_to(("model.rotary_emb.table", (2, 3), 4.0))]
    seen = collect(checkpoint, arms)
    assert equals(seen, 1, run_alone(checkpoint, set_))
    assert not torch.equal(seen[0, 0], seen[0, 1])
    # Layers that are given the parameter itself would see it as it is.
    checkpoint.model.model.rotary_emb = Learned(24, None)
    with pytest.raises(CheckpointError, match="handed a parameter from outside of them"):
        collect(checkpoint, arms)


def test_a_model_that_is_read_as_it_runs_gives_the_logits_of_all_batches_for_one_reading() -> None:
    batches = [torch.tensor([[1, 5, 6]]), torch.tensor([[1, 7, 8, 9, 4], [2, 3, 4, 5, 6]])]
    ours, theirs, readings = find_both_ways(
        lambda checkpoint: (
            list(give_logits(checkpoint, batches))
            if checkpoint.is_streamed
            else [checkpoint.model(input_ids=token_ids).logits for token_ids in batches]
        )
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    # Of the first layer two tokens are run, to see what layers return.
    assert readings == {1, 2}


MEASURED = """
import torch
from dataclasses import replace
from sw_audit.measure.engine import run_arms
from sw_audit.memory import measuring_peak
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Custom, Scale
from sw_audit.testing.families import wrap_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=300, hidden_size=512, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
checkpoint = wrap_model(LlamaForCausalLM(config))
down = checkpoint.layers[0].down_projections[0].parameter
arms = [BASELINE]
for row in range(3):
    group = AddressGroup(parameter=down, rows=(row,), columns=(0,))
    arms.append(Arm(purpose=Custom(label=str(row)), acts=(Scale(addresses=(group,), factor=2.0),)))
batches = [torch.randint(3, 300, (1, 512)) for _ in range(20)]
run_arms(checkpoint, arms, batches[:1], lambda *_: None)
for memory in (8 << 20, None):
    with measuring_peak() as peak:
        run_arms(replace(checkpoint, memory=memory), arms, batches, lambda *_: None)
    print(peak.added / (8 << 20))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is known on Linux")
def test_states_of_ten_times_the_memory_do_not_take_it() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    limited, unlimited = map(float, ran.stdout.split())
    # Four arms of 20 batches, 1 MiB each. Beside the limit is what torch itself takes for one batch.
    assert limited < 5
    assert unlimited > 10
