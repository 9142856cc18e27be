"""A mixture on disk, from its policy to the verdict on its experts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.checkpoints import WORDS, make_tokenizer, rewrite_config, rewrite_weights, save_checkpoint
from support.engine import MIXED
from support.experts import W4A8, make_experts, pack_expert_

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.checks.unreached import UNREACHED, describe_unreached, find_routing
from sw_audit.policy.policy import CorpusPolicy, ExpertsPolicy, ModelPolicy, Policy
from sw_audit.record.arm import PARENT
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run, run_model

CHECK = "super-experts-exceed-controls"


@pytest.fixture
def mixture(tmp_path: Path) -> Policy:
    """A policy about a Qwen3 mixture of 12 experts, on a text of the words that it knows."""
    model = make_experts(MIXED["qwen3_moe"])
    model.save_pretrained(tmp_path / "mixture")
    make_tokenizer().save_pretrained(tmp_path / "mixture")
    text = " ".join(WORDS[(7 * place + place // 5) % len(WORDS)] for place in range(600))
    (tmp_path / "text.txt").write_text(text)
    return Policy(
        model=(ModelPolicy(source=str(tmp_path / "mixture"), id="mixture"),),
        corpus=CorpusPolicy(source=str(tmp_path / "text.txt"), window=32, windows=8),
    )


def test_a_mixtures_experts_are_counted_tried_and_judged(mixture: Policy) -> None:
    record = run(mixture, checks=[CHECK])
    [result] = record.results
    assert result.experts is not None
    assert (result.experts.experts, result.experts.marked) == (12, 1)
    names = [one.arm.name for one in result.measurements]
    assert names[0] == "baseline"
    assert names[-2:] == ["experts", "control-experts"]
    assert len(names) == 5
    baseline, *others = result.measurements
    seen = sum(baseline.loss.tokens) + len(baseline.loss.tokens)  # the first token of each window is not scored
    assert [sum(layer.tokens) for layer in baseline.routing] == [2 * seen] * 3
    assert all(one.routing == () for one in others)
    [verdict] = result.verdicts
    assert verdict.counts == {"experts": 12, "marked": 1, "tried": 1}
    assert verdict.status in (Status.PASS, Status.FAIL, Status.INCONCLUSIVE)
    labels = [finding.label for finding in verdict.findings if finding.label != UNREACHED]
    assert labels == names[1:]
    # Again from the record, and again from its JSON.
    again = type(record).model_validate_json(record.model_dump_json(by_alias=True))
    assert again.results[0].measurements[0].routing == baseline.routing


def test_experts_are_left_alone_where_the_policy_says_so(mixture: Policy) -> None:
    policy = mixture.model_copy(update={"experts": ExpertsPolicy(tried=0)})
    [result] = run(policy, checks=[CHECK]).results
    assert result.experts is None
    assert [one.arm.name for one in result.measurements] == ["baseline"]
    assert result.verdicts[0].because == "No expert is tried: `[experts] tried` is 0."


def test_a_mixture_that_is_read_layer_by_layer_gives_the_same(mixture: Policy) -> None:
    opened = [open_checkpoint(mixture.models[0]), open_streaming(mixture.models[0])]
    whole, streamed = (run_model(mixture, "mixture", [CHECK], checkpoint=one) for one in opened)
    assert isinstance(whole, ModelResult)
    assert isinstance(streamed, ModelResult)
    assert opened[1].is_streamed
    assert streamed.experts == whole.experts
    assert streamed.measurements[0].routing == whole.measurements[0].routing
    assert [one.loss for one in streamed.measurements] == [one.loss for one in whole.measurements]


@pytest.mark.parametrize("broken", [False, True])
def test_a_descendant_one_of_whose_experts_was_rounded_otherwise_fails_and_its_unreached_ones_are_named(
    mixture: Policy, tmp_path: Path, broken: bool
) -> None:
    parent = Path(mixture.models[0].source)
    folder = Path(shutil.copytree(parent, tmp_path / "rounded"))
    name = "model.layers.1.mlp.experts.2.down_proj.weight"

    def round_(tensors: dict[str, torch.Tensor]) -> None:
        for one in [one for one in tensors if ".experts." in one]:
            step = tensors[one].abs().amax(dim=1, keepdim=True) / (1 if broken and one == name else 7)
            tensors[one] = (tensors[one] / step).round() * step

    rewrite_weights(folder, round_)
    descendant = ModelPolicy(source=str(folder), id="rounded", parent=str(parent))
    policy = mixture.model_copy(update={"models": (descendant,)})
    [result] = run(policy, checks=["experts-quantized-alike", "perplexity-ratio"]).results
    alike, ratio = result.verdicts
    assert alike.status is (Status.FAIL if broken else Status.PASS)
    assert (name in alike.because) is broken
    assert result.descent is not None
    routing = find_routing(result)
    assert [layer.layer for layer in routing] == [0, 1, 2]
    assert result.descent.texts[0].measured(PARENT).routing == ()  # type: ignore[union-attr]
    told = [finding.because for finding in ratio.findings if finding.label == UNREACHED]
    unreached = [layer for layer in routing if layer.unreached]
    assert told == ([describe_unreached(unreached)] if unreached else [])


def test_of_a_checkpoint_that_cannot_be_opened_the_expert_that_calibration_never_reached_is_named(
    mixture: Policy, tmp_path: Path
) -> None:
    parent = save_checkpoint(tmp_path / "parent", MIXED["qwen3_moe"], moe_intermediate_size=64)
    folder = Path(shutil.copytree(parent, tmp_path / "packed"))
    scale = "model.layers.1.mlp.experts.2.down_proj.input_scale"

    def quantize_(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name.removesuffix(".weight") for name in tensors if ".experts." in name]:
            pack_expert_(tensors, name)
        tensors[scale][0] = 0.0

    rewrite_config(rewrite_weights(folder, quantize_), quantization_config=W4A8)
    packed = ModelPolicy(source=str(folder), id="packed", parent=str(parent))
    checks = ["weights-intact", "experts-quantized-alike", "perplexity-ratio"]
    [failure] = run(mixture.model_copy(update={"models": (packed,)}), checks=checks).failures
    intact, alike, ratio = failure.verdicts
    assert (intact.status, alike.status, ratio.status) == (Status.FAIL, Status.FAIL, Status.SKIPPED)
    assert alike.because == f"{scale}: it is 0, as if no token had set it; its siblings' is 0.02."
