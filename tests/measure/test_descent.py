"""Parent and descendant on a text, held against loops over whole models."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from support.checkpoints import make_tokenizer
from support.planted import build_llama, wrap_model

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.windows import Windows
from sw_audit.errors import CheckpointError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.measure.descent import (
    compare_on_text,
    restore_module,
    restore_super_weights,
    share_text,
)
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy
from sw_audit.record.arm import SetTo, SwapModules
from sw_audit.record.descent import DESCENDANT, PARENT, RESTORED_WEIGHTS, name_restored_module
from sw_audit.record.location import SuperWeight
from sw_audit.specimen import specimen_path

TEXT = CorpusPolicy(windows=12)
POLICY = ModelPolicy(source=str(specimen_path()))


@pytest.fixture(scope="module")
def parent() -> Checkpoint:
    return open_checkpoint(POLICY)


@pytest.fixture(scope="module")
def super_weights(parent: Checkpoint) -> tuple[SuperWeight, ...]:
    return locate_super_weights(parent).super_weights


def copy_of(checkpoint: Checkpoint) -> Checkpoint:
    return wrap_model(copy.deepcopy(checkpoint.model), checkpoint.tokenizer, "descendant")


def prune(parent: Checkpoint, super_weights: tuple[SuperWeight, ...]) -> Checkpoint:
    """Zero the super weight, and a part of everything else."""
    made = copy_of(parent)
    generator = torch.Generator().manual_seed(1)
    for layer in made.layers:
        for matrix in layer.matrices:
            matrix.weight.mul_(torch.rand(matrix.shape, generator=generator) > 0.01)
    for one in super_weights:
        made.matrix(one.parameter).weight[one.row, one.column] = 0.0
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
    found, layers = compare_on_text(streamed, descendant, text)
    there, here = predict(parent, text.windows), predict(descendant, text.windows)
    targets = torch.cat(
        [
            row[begin:]
            for row, begin in zip(text.windows.token_ids, text.windows.first_scored.tolist(), strict=True)
        ]
    )
    first, second = found.measurements
    assert (first.arm.name, first.model, second.arm.name, second.model) == (
        PARENT, "specimen", DESCENDANT, "descendant",
    )  # fmt: skip
    assert {first.protocol, second.protocol} == {found.protocol.signature}
    for measured, logs in ((first, there), (second, here)):
        nats = -logs.gather(1, targets[:, None]).mean()
        assert measured.loss.perplexity == pytest.approx(math.exp(float(nats)), rel=1e-5)
        assert measured.stop_words is not None
    divergence = (there.exp() * (there - here)).sum(1)
    assert second.agreement.mean_divergence == pytest.approx(float(divergence.mean()), rel=1e-5)
    assert second.agreement.top1 == float((there.argmax(1) == here.argmax(1)).double().mean())
    spread = second.agreement.spread
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
    restored = restore_super_weights(parent, descendant, super_weights)
    assert restored is not None
    module, other = (f"model.layers.{layer}.mlp.down_proj" for layer in (weight.layer, weight.layer + 1))
    text = share_text(parent, descendant, TEXT, seed=0)
    found, layers = compare_on_text(
        parent, descendant, text, [restored, restore_module(module), restore_module(other)], layers=True
    )
    whole, broken = found.measured(PARENT), found.measured(DESCENDANT)
    assert whole is not None
    assert broken is not None
    for name in (RESTORED_WEIGHTS, name_restored_module(module)):
        back = found.measured(name)
        assert back is not None
        # Nothing but that scalar differed, so with it the two are one model, bit for bit.
        assert back.loss == whole.loss
        assert back.agreement.divergence == whole.agreement.divergence
    untouched = found.measured(name_restored_module(other))
    assert untouched is not None
    assert untouched.loss == broken.loss
    assert broken.loss.perplexity is not None
    assert whole.loss.perplexity is not None
    assert broken.loss.perplexity > 100 * whole.loss.perplexity
    assert [one.layer for one in layers] == list(range(len(parent.layers)))


def test_the_acts_that_put_back_name_what_the_descendant_has(
    parent: Checkpoint, super_weights: tuple[SuperWeight, ...]
) -> None:
    [weight] = super_weights
    twice = (weight, weight.model_copy(update={"row": 6, "value": -0.5}))
    arm = restore_super_weights(parent, copy_of(parent), twice)
    assert arm is not None
    assert [(act.value, act.addresses[0].rows) for act in arm.acts if isinstance(act, SetTo)] == [
        (weight.value, (5,)),
        (-0.5, (6,)),
    ]
    assert restore_super_weights(parent, copy_of(parent), ()) is None
    gone = weight.model_copy(update={"parameter": "model.layers.1.mlp.gone.weight"})
    assert restore_super_weights(parent, copy_of(parent), (gone,)) is None
    assert restore_module("a.b").acts == (SwapModules(modules=("a.b",)),)


def test_two_tokenizers_that_make_other_tokens_cannot_be_compared(parent: Checkpoint, tmp_path: Path) -> None:
    descendant = copy_of(parent)
    file = tmp_path / "text.txt"
    file.write_text("the fox and the owl sang . " * 40)
    descendant.tokenizer = make_tokenizer()
    wanted = CorpusPolicy(source=str(file), window=16, windows=2)
    with pytest.raises(CheckpointError, match="tokenizers make different tokens") as refused:
        share_text(parent, descendant, wanted, seed=0)
    assert "put the parent's tokenizer beside" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_windows_are_no_longer_than_either_model_takes(parent: Checkpoint) -> None:
    descendant = copy_of(parent)
    descendant.model.config.max_position_embeddings = 32
    for one, two in ((parent, descendant), (descendant, parent)):
        assert share_text(one, two, TEXT, seed=0).windows.token_ids.shape[1] == 32


def test_layers_of_models_of_another_depth_are_not_held_against_each_other() -> None:
    class Words:
        bos_token_id = None

    shallow, deep = (wrap_model(build_llama(layers=layers), Words()) for layers in (2, 3))
    token_ids = torch.randint(3, 101, (2, 8), generator=torch.Generator().manual_seed(3))
    sample = share_text(open_checkpoint(POLICY), open_checkpoint(POLICY), TEXT, seed=0)
    text = type(sample)(Windows(token_ids, torch.tensor([1, 1])), sample.protocol, torch.tensor([4]))
    found, layers = compare_on_text(deep, shallow, text, layers=True)
    assert layers == ()
    assert [len(one.peaks) for one in found.measurements] == [3, 2]
    _, same = compare_on_text(deep, wrap_model(build_llama(layers=3, seed=1), Words()), text, layers=True)
    assert len(same) == 3
