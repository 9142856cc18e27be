"""Parent and descendant on a text, layer by layer and module by module, compared with loops over whole models."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import make_tokenizer
from support.engine import MIXED, copy_of
from support.experts import make_experts
from support.planted import build_gpt2, build_llama, wrap_model
from torch import nn

from sw_audit.checkpoint.matrices import take_states
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.descent import (
    LayerErrorObserver,
    compare_on_text,
    rank_modules,
    restore_module,
    restore_parts,
    restore_super_weights,
    restore_together,
    share_text,
)
from sw_audit.measure.engine import run_arms
from sw_audit.measure.readers import batch_windows
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.record.address import WeightAddress
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_WEIGHTS,
    Arm,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredSet,
    SwapModules,
)
from sw_audit.record.descent import LayerError
from sw_audit.record.location import SuperWeight
from sw_audit.specimen import specimen_path
from sw_audit.testing.families import Numerals

TEXT = CorpusPolicy(source="specimen", windows=12)
POLICY = ModelPolicy(source=str(specimen_path()))
LAYER = 2
NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def parent() -> Checkpoint:
    return open_checkpoint(POLICY)


@pytest.fixture(scope="module")
def super_weights(parent: Checkpoint) -> tuple[SuperWeight, ...]:
    return locate_super_weights(parent).super_weights


def prune(parent: Checkpoint, super_weights: tuple[SuperWeight, ...]) -> Checkpoint:
    """Zero the super weight, and a part of everything else."""
    made = wrap_model(copy.deepcopy(parent.model), parent.tokenizer, "descendant")
    generator = torch.Generator().manual_seed(1)
    for layer in made.layers:
        for matrix in layer.matrices:
            matrix.weight.mul_(torch.rand(matrix.shape, generator=generator) > 0.01)
    for weight in super_weights:
        made.matrix(weight.parameter).weight[weight.row, weight.column] = 0.0
    return made


@torch.no_grad()
def predict(checkpoint: Checkpoint, windows: Windows) -> torch.Tensor:
    """Return log-probabilities of every scored token's whole distribution, [tokens, vocabulary]."""
    logits = checkpoint.model(input_ids=windows.token_ids).logits.double().log_softmax(-1)
    rows = zip(logits, windows.first_scored.tolist(), strict=True)
    return torch.cat([row[begin - 1 : -1] for row, begin in rows])


def test_figures_are_those_of_two_whole_models_on_the_same_tokens(
    parent: Checkpoint, super_weights: tuple[SuperWeight, ...]
) -> None:
    descendant = prune(parent, super_weights)
    text = share_text(parent, descendant, TEXT, seed=0)
    streamed = open_streaming(POLICY)
    compared, layers = compare_on_text(streamed, descendant, text)
    there, here = predict(parent, text.windows), predict(descendant, text.windows)
    rows = zip(text.windows.token_ids, text.windows.first_scored.tolist(), strict=True)
    targets = torch.cat([row[begin:] for row, begin in rows])
    first, second = compared.measurements
    named = [(measured.arm.name, measured.model) for measured in (first, second)]
    assert named == [(PARENT.name, "specimen"), (DESCENDANT.name, "descendant")]
    assert {first.protocol, second.protocol} == {compared.protocol.signature}
    for measured, logs in ((first, there), (second, here)):
        nats = -logs.gather(1, targets[:, None]).mean()
        assert measured.loss.perplexity == pytest.approx(math.exp(float(nats)), rel=1e-5)
        assert measured.stop_words is not None
    divergence = (there.exp() * (there - here)).sum(1)
    assert second.agreement.mean_divergence == pytest.approx(float(divergence.mean()), rel=1e-5)
    assert second.agreement.top1 == float((there.argmax(1) == here.argmax(1)).double().mean())
    assert second.agreement.token_divergence == pytest.approx(divergence.tolist(), rel=1e-4, abs=1e-6)
    spread = second.agreement.tail
    assert spread is not None
    expected = torch.quantile(divergence, torch.tensor([0.5, 0.99, 1.0]).double()).tolist()
    assert [spread.median, spread.p99, spread.maximum] == pytest.approx(expected, rel=1e-4)
    assert first.agreement.mean_divergence == 0.0
    assert layers == ()


def test_putting_back_recovers_what_was_taken_away_and_nothing_else(
    parent: Checkpoint, super_weights: tuple[SuperWeight, ...]
) -> None:
    descendant = copy_of(parent)
    [weight] = super_weights
    descendant.matrix(weight.parameter).weight[weight.row, weight.column] = 0.0
    module, other = (f"model.layers.{layer}.mlp.down_proj" for layer in (weight.layer, weight.layer + 1))
    arms = [
        restore_super_weights(parent, descendant, super_weights),
        restore_module(module),
        restore_module(other),
    ]
    text = share_text(parent, descendant, TEXT, seed=0)
    compared, layers = compare_on_text(parent, descendant, text, arms, layers=True)
    whole, broken, *restored, untouched = compared.measurements
    assert [measured.arm for measured in (*restored, untouched)] == arms
    for measured in restored:
        # Nothing but that scalar differed, so with it the two are one model, bit for bit.
        assert measured.loss == whole.loss
        assert measured.agreement.divergence == whole.agreement.divergence
    assert untouched.loss == broken.loss
    assert broken.loss.perplexity > 100 * whole.loss.perplexity
    assert [layer.layer for layer in layers] == list(range(len(parent.layers)))


def test_the_acts_that_put_back_name_what_the_descendant_has(
    parent: Checkpoint, super_weights: tuple[SuperWeight, ...]
) -> None:
    [weight] = super_weights
    twice = (weight, weight.model_copy(update={"row": 6, "value": -0.5}))
    arm = restore_super_weights(parent, copy_of(parent), twice)
    assert arm.purpose == RESTORED_WEIGHTS
    assert [(act.value, act.addresses[0].rows) for act in arm.acts] == [(weight.value, (5,)), (-0.5, (6,))]
    assert restore_super_weights(parent, copy_of(parent), ()) is None
    gone = weight.model_copy(update={"parameter": "model.layers.1.mlp.gone.weight"})
    assert restore_super_weights(parent, copy_of(parent), (gone,)) is None
    restored = Arm(purpose=RestoredModule(module="a.b"), acts=(SwapModules(modules=("a.b",)),))
    assert restore_module("a.b") == restored


def disturb_all(parent: Checkpoint) -> Checkpoint:
    """Change every matrix, and one gain of a norm, a little."""
    made = copy_of(parent)
    generator = torch.Generator().manual_seed(7)
    for layer in made.layers:
        for matrix in layer.matrices:
            matrix.weight.add_(0.2 * matrix.weight.std() * torch.randn(matrix.shape, generator=generator))
    made.model.model.layers[LAYER].input_layernorm.weight.data[3] *= 0.5
    return made


@pytest.mark.parametrize("by_layers", [False, True], ids=["whole", "by layers"])
def test_what_is_put_back_together_is_a_model_that_was_changed_for_good(
    parent: Checkpoint, super_weights: tuple[SuperWeight, ...], by_layers: bool
) -> None:
    descendant = disturb_all(parent)
    [weight] = super_weights
    weights = restore_super_weights(parent, descendant, super_weights)
    single, whole = "model.layers.4.self_attn.o_proj", f"model.layers.{LAYER}"
    other = open_streaming(POLICY) if by_layers else parent
    ranked = [(single, 1.0), *rank_modules(other, descendant)]
    parts = restore_parts(other, descendant, ranked, modules=1, layers=6)
    alone = {arm.purpose: arm for arm in (weights, *parts)}
    chosen = (RESTORED_WEIGHTS, RestoredModule(module=single), RestoredLayer(layer=whole))
    kind = RestoredKind(path="mlp.up_proj")
    arms = [
        restore_together(RestoredSet(parts=chosen), alone),
        alone[kind],
        alone[RestoredLayers()],
        # The scalar is in a module that is put back whole as well.
        restore_together(RestoredSet(parts=(RESTORED_WEIGHTS, RestoredLayer(layer="model.layers.1"))), alone),
    ]
    before = {name: tensor.clone() for name, tensor in descendant.model.state_dict().items()}
    original = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    text = share_text(other, descendant, TEXT, seed=0)
    compared, _ = compare_on_text(other, descendant, text, arms)
    changed_parts = [(single, f"{whole}."), ("mlp.up_proj",), ("model.layers.",), ("model.layers.1.",)]
    for measured, parts_of_names in zip(compared.measurements[2:], changed_parts, strict=True):
        changed = copy_of(descendant)
        for name, tensor in changed.model.state_dict().items():
            if any(part in name for part in parts_of_names):
                tensor.copy_(original[name])
        if measured.arm.purpose in (arms[0].purpose, arms[3].purpose):
            changed.matrix(weight.parameter).weight[weight.row, weight.column] = weight.value
        expected, _ = compare_on_text(other, changed, text)
        assert measured.loss == expected.measurements[1].loss, measured.arm.name
        assert measured.agreement.divergence == expected.measurements[1].agreement.divergence
    assert compared.measurements[4].loss == compared.measurements[0].loss
    for left, right in ((descendant.model.state_dict(), before), (parent.model.state_dict(), original)):
        assert all(torch.equal(left[name], right[name]) for name in right)


def test_the_parts_are_the_worst_modules_and_layers_then_kinds_then_all_that_differs(parent: Checkpoint) -> None:
    descendant = copy_of(parent)
    modules = [f"model.layers.{layer}.{path}" for layer, path in ((3, "mlp.up_proj"), (1, "mlp.up_proj"))]
    other = "model.layers.0.self_attn.o_proj"  # the only one of its kind
    for name, factor in zip((*modules, other), (0.5, 0.8, 0.9), strict=True):
        descendant.model.get_submodule(name).weight.data.mul_(factor)
    ranked = rank_modules(parent, descendant)
    arms = {
        arm.purpose: arm.acts[0].modules for arm in restore_parts(parent, descendant, ranked, modules=9, layers=9)
    }
    norms = ("input_layernorm", "post_attention_layernorm")

    def hold(layer: int) -> set[str]:
        return {f"model.layers.{layer}.{path}" for path in ("mlp.up_proj", *norms)}

    assert list(arms) == [
        *(RestoredModule(module=name) for name in (*modules, other)),
        *(RestoredLayer(layer=f"model.layers.{layer}") for layer in (3, 1, 0)),
        RestoredKind(path="mlp.up_proj"),
        RestoredLayers(),
    ]
    assert set(arms[RestoredLayer(layer="model.layers.3")]) == hold(3)
    assert arms[RestoredKind(path="mlp.up_proj")] == tuple(reversed(modules))
    assert set(arms[RestoredLayers()]) >= hold(1) | hold(3)
    # What each layer adds to the error counts before the weights; one that adds nothing is left alone.
    errors = [LayerError(layer=layer, signal=1.0, noise=1.0, own_noise=own) for layer, own in ((1, 2.0), (3, 0.0))]
    few = restore_parts(parent, descendant, ranked, errors, lost=modules[1:], modules=1, layers=9)
    assert [arm.purpose for arm in few[:2]] == [
        RestoredModule(module=modules[1]),
        RestoredLayer(layer="model.layers.1"),
    ]


def test_two_tokenizers_that_make_other_tokens_cannot_be_compared(parent: Checkpoint, tmp_path: Path) -> None:
    descendant = copy_of(parent)
    file = tmp_path / "text.txt"
    file.write_text("the fox and the owl sang . " * 40)
    descendant.tokenizer = make_tokenizer()
    policy = CorpusPolicy(source=str(file), window=16, windows=2)
    with pytest.raises(CheckpointError, match="tokenizers make different tokens") as refused:
        share_text(parent, descendant, policy, seed=0)
    assert "put the parent's tokenizer beside" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_windows_are_no_longer_than_either_model_takes(parent: Checkpoint) -> None:
    descendant = copy_of(parent)
    descendant.model.config.max_position_embeddings = 32
    for pair in ((parent, descendant), (descendant, parent)):
        assert share_text(*pair, TEXT, seed=0).windows.token_ids.shape[1] == 32


def test_layers_of_models_of_another_depth_are_not_held_against_each_other() -> None:
    shallow, deep = (wrap_model(build_llama(layers=layers), Numerals(None)) for layers in (2, 3))
    token_ids = torch.randint(3, 101, (2, 8), generator=torch.Generator().manual_seed(3))
    sample = share_text(open_checkpoint(POLICY), open_checkpoint(POLICY), TEXT, seed=0)
    text = type(sample)(Windows(token_ids, torch.tensor([1, 1])), sample.protocol, torch.tensor([4]))
    compared, layers = compare_on_text(deep, shallow, text, layers=True)
    assert layers == ()
    assert [len(measured.peaks) for measured in compared.measurements] == [3, 2]
    _, same = compare_on_text(deep, wrap_model(build_llama(layers=3, seed=1), Numerals(None)), text, layers=True)
    assert len(same) == 3


def make_windows() -> Windows:
    token_ids = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(3))
    # The last window overlaps the one before: only its last three tokens are new.
    return Windows(token_ids, torch.tensor([1, 1, 1, 6]))


def disturb(parent: Checkpoint, layer: int = LAYER) -> Checkpoint:
    """Change all matrices of one layer a little."""
    made = copy_of(parent)
    generator = torch.Generator().manual_seed(5)
    for matrix in made.layers[layer].matrices:
        matrix.weight.add_(0.1 * matrix.weight.std() * torch.randn(matrix.shape, generator=generator))
    return made


def note(parent: Checkpoint, descendant: Checkpoint) -> list[LayerError]:
    batches = batch_windows(make_windows(), parent.vocabulary)
    observer = LayerErrorObserver(batches)
    arms, token_ids = [Arm(purpose=PARENT), Arm(purpose=DESCENDANT)], [batch.token_ids for batch in batches]
    run_arms(descendant, arms, token_ids, lambda *_: None, parent=parent, observer=observer)
    return observer.errors


@torch.no_grad()
def list_states(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """Return the residual stream after each layer, [windows, tokens, hidden]."""
    states: list[torch.Tensor] = []
    handles = [
        layer.module.register_forward_hook(lambda _, __, output: states.append(take_states(output)))
        for layer in checkpoint.layers
    ]
    checkpoint.model(input_ids=make_windows().token_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return states


def sum_scored(states: torch.Tensor) -> float:
    return sum(
        float(states[window, begin:].double().square().sum())
        for window, begin in enumerate(make_windows().first_scored.tolist())
    )


@pytest.mark.parametrize("build", [build_llama, build_gpt2])
def test_signal_and_noise_are_sums_over_scored_tokens_of_the_residual_stream(build: Any) -> None:
    parent = wrap_model(build(layers=4))
    descendant = disturb(parent)
    errors = note(parent, descendant)
    assert [error.layer for error in errors] == [0, 1, 2, 3]
    for error, there, here in zip(errors, list_states(parent), list_states(descendant), strict=True):
        assert error.signal == pytest.approx(sum_scored(there), rel=1e-9)
        assert error.noise == pytest.approx(sum_scored(here - there), rel=1e-5)
    # Only one layer differs, so alone it makes all the noise there, and none of its own is made after it.
    assert [error.noise == 0 for error in errors] == [True, True, False, False]
    assert [error.own_noise == 0 for error in errors] == [True, True, False, True]
    assert errors[LAYER].own_noise == pytest.approx(errors[LAYER].noise, rel=1e-5)


def test_the_range_of_the_down_projections_is_the_descendants_over_all_tokens() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = disturb(parent)
    ranges: list[tuple[float, float, bool]] = []

    def keep(_: Any, inputs: Any, output: torch.Tensor) -> None:
        ranges.append((float(inputs[0].abs().max()), float(output.abs().max()), True))

    for layer in descendant.layers:
        layer.down_projection.module.register_forward_hook(keep)
    with torch.no_grad():
        descendant.model(input_ids=make_windows().token_ids)
    expected = list(ranges)
    errors = note(parent, descendant)
    assert [(error.down_input, error.down_output, error.finite) for error in errors] == expected


def test_the_range_of_experts_is_that_of_the_largest_one() -> None:
    parent = wrap_model(make_experts(MIXED["mixtral"]))
    descendant = copy_of(parent)
    before = note(parent, descendant)
    for expert in descendant.layers[1].down_projections:
        expert.weight.mul_(8.0)
    after = note(parent, descendant)
    assert after[1].down_output == pytest.approx(8 * before[1].down_output, rel=1e-5)
    assert after[1].down_input == before[1].down_input
    assert before[0].down_output == after[0].down_output


def test_a_layer_that_is_not_finite_has_no_noise_and_says_so_and_none_is_compared_with_such_a_parent() -> None:
    parent = wrap_model(build_llama(layers=4))
    descendant = copy_of(parent)
    descendant.layers[LAYER].down_projection.weight[5, 7] = math.nan
    errors = note(parent, descendant)
    assert [error.noise is None for error in errors] == [False, False, True, True]
    assert [error.own_noise is None for error in errors] == [False, False, True, False]
    assert [error.finite for error in errors] == [True, True, False, False]
    assert (errors[LAYER].down_output, errors[LAYER - 1].noise) == (None, 0.0)
    assert [error.layer for error in note(descendant, parent)] == [0, 1]


def pick(checkpoint: Checkpoint, layer: int, ending: str) -> torch.Tensor:
    return next(matrix.weight for matrix in checkpoint.layers[layer].matrices if matrix.parameter.endswith(ending))


def test_the_worst_comes_first_with_its_relative_error() -> None:
    parent = wrap_model(build_llama(layers=3))
    descendant = copy_of(parent)
    pick(descendant, 2, "down_proj.weight").mul_(0.5)
    pick(descendant, 0, "q_proj.weight").mul_(-1.0)
    ranked = rank_modules(parent, descendant)
    assert ranked[0] == ("model.layers.0.self_attn.q_proj", pytest.approx(2.0, rel=1e-9))
    assert ranked[1] == ("model.layers.2.mlp.down_proj", pytest.approx(0.5, rel=1e-9))
    assert len(ranked) == 3 * 7
    assert {error for _, error in ranked[2:]} == {0.0}


def test_what_is_not_finite_comes_before_all_others() -> None:
    parent = wrap_model(build_gpt2(layers=2))
    descendant = copy_of(parent)
    pick(descendant, 0, "c_fc.weight").mul_(1e6)
    pick(descendant, 1, "mlp.c_proj.weight")[0, 0] = math.nan
    ranked = rank_modules(parent, descendant)
    assert ranked[0] == ("transformer.h.1.mlp.c_proj", None)
    assert ranked[1][0] == "transformer.h.0.mlp.c_fc"


def test_the_experts_of_a_module_count_together() -> None:
    parent = wrap_model(make_experts(MIXED["mixtral"]))
    descendant = copy_of(parent)
    descendant.model.model.layers[1].mlp.experts.down_proj[2] = 0.0
    [(name, error), *others] = rank_modules(parent, descendant)
    experts = parent.model.model.layers[1].mlp.experts
    signal = sum(float(parameter.double().square().sum()) for parameter in experts.parameters())
    noise = float(experts.down_proj[2].double().square().sum())
    assert name == "model.layers.1.mlp.experts"
    assert error == pytest.approx(math.sqrt(noise / signal), rel=1e-6)
    assert {of_other for _, of_other in others} == {0.0}


class Halved(nn.Module):
    """A module that multiplies by half of a matrix that it does not show."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.register_buffer("code", linear.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code: Any = self.code
        return 0.5 * nn.functional.linear(x, code)


def test_a_matrix_that_can_only_be_probed_is_sampled_also_beside_a_parent_that_is_read_by_layers() -> None:
    model: Any = open_checkpoint(POLICY).model
    block = model.model.layers[1].mlp
    block.down_proj = Halved(block.down_proj)
    asked: list[int] = []
    plain = block.down_proj.forward
    block.down_proj.forward = lambda x: (asked.append(x.shape[1]), plain(x))[1]
    ranked = rank_modules(open_streaming(POLICY), wrap_model(model))
    assert ranked[0] == ("model.layers.1.mlp.down_proj", pytest.approx(0.5, rel=1e-5))
    # 192 columns there are; 64 are looked at, and what the module gives for nothing is asked once.
    assert sum(asked) <= 64 + 4
    assert {error for _, error in ranked[1:]} == {0.0}


def test_of_a_sampled_matrix_the_columns_of_super_weights_count_and_stand_for_themselves() -> None:
    model: Any = open_checkpoint(POLICY).model
    down = model.model.layers[1].mlp.down_proj
    whole = down.weight.detach().clone()
    down.weight[5, 7] = 0.0
    model.model.layers[1].mlp.down_proj = Halved(down)
    model.model.layers[1].mlp.down_proj.code.mul_(2.0)
    parent, address = open_streaming(POLICY), WeightAddress(parameter=NAME, row=5, column=7)
    [(name, error), *_] = rank_modules(parent, wrap_model(model), [address])
    # All that differs is one scalar, and only its column is known as it is.
    others = whole.double()[:, [column for column in range(192) if column != 7]]
    sampled = others[:, torch.linspace(0, 190, 64).long()].square().sum() * 191 / 64
    expected = 3.2412286**2 / (float(whole[:, 7].double().square().sum()) + float(sampled))
    assert f"{name}.weight" == NAME
    assert error == pytest.approx(math.sqrt(expected), rel=1e-5)
    assert rank_modules(parent, wrap_model(model))[0][1] == 0.0


def test_what_only_one_of_the_two_has_or_in_another_shape_is_left_out() -> None:
    parent = wrap_model(build_llama(layers=2))
    model = copy.deepcopy(parent.model)
    blocks: Any = model.model.layers
    blocks[0].mlp.down_proj = nn.Linear(100, 48, bias=False)
    blocks[1].mlp.extra = nn.Linear(48, 48, bias=False)
    names = [name for name, _ in rank_modules(parent, wrap_model(model))]
    assert len(names) == 2 * 7 - 1
    assert "model.layers.0.mlp.down_proj" not in names
    assert "model.layers.1.mlp.extra" not in names
