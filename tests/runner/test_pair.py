"""Descendants beside the specimen: what was done to them is what is found, and putting it back recovers it."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.judging import judge_result
from sw_audit.errors import BrokenWeightsError, CheckpointError
from sw_audit.policy.policy import Policy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_WEIGHTS, RestoredModule
from sw_audit.record.descent import Descent
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import decode_record, encode_record
from sw_audit.record.verdict import Status
from sw_audit.runner.run import preflight, run, run_model
from sw_audit.specimen import specimen_path

Tensors = dict[str, torch.Tensor]
SUPER, ROW, COLUMN = "model.layers.1.mlp.down_proj.weight", 5, 7
MODULE = SUPER.removesuffix(".weight")
QUICK = ["perplexity-ratio", "layer-error"]


def write(folder: Path, change_: Callable[[Tensors], object]) -> Path:
    """Copy the specimen and change its tensors."""
    shutil.copytree(specimen_path(), folder)
    tensors = load_file(folder / "model.safetensors")
    change_(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def list_matrices(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    yield from ((name, tensor) for name, tensor in tensors.items() if ".layers." in name and tensor.ndim == 2)


def zero_super_weight_(tensors: Tensors) -> None:
    tensors[SUPER][ROW, COLUMN] = 0.0


def round_(tensors: Tensors) -> None:
    held = (torch.tensor([ROW]), torch.tensor([COLUMN]))
    for name, tensor in list_matrices(tensors):
        tensor.copy_(round_to_nearest(tensor, parse_recipe("int5/16x16"), held if name == SUPER else None))


def change_slightly_(tensors: Tensors) -> None:
    generator = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        tensor += 1e-3 * tensor.std() * torch.randn(tensor.shape, generator=generator)


def make_policy(*sources: Path, **more: Any) -> Policy:
    models = [{"source": str(source), "parent": str(specimen_path())} for source in sources]
    return Policy.model_validate({"model": models, "corpus": {"windows": 16}, **more})


def measure(source: Path, checks: list[str] = QUICK, **more: Any) -> ModelResult:
    policy = make_policy(source, **more)
    found = run_model(policy, policy.models[0].id, checks)
    assert isinstance(found, ModelResult)
    return found


def descent_of(evidence: ModelResult) -> Descent:
    assert evidence.descent is not None
    return evidence.descent


def perplexity(descent: Descent, arm: str, text: int = 0) -> float:
    measured = descent.texts[text].measured(arm)
    assert measured is not None
    assert measured.loss.perplexity is not None
    return measured.loss.perplexity


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gate") / "pruned", zero_super_weight_)


@pytest.fixture(scope="module")
def found_pruned(pruned: Path) -> ModelResult:
    return measure(pruned)


def test_a_lost_super_weight_is_found_and_putting_it_back_recovers_everything(found_pruned: ModelResult) -> None:
    descent = descent_of(found_pruned)
    [weight] = descent.super_weights
    assert (weight.address.parameter, weight.address.row, weight.address.column) == (SUPER, ROW, COLUMN)
    assert (weight.value, weight.relative_error, weight.row_error) == (0.0, -1.0, 0.0)
    assert perplexity(descent, DESCENDANT.name) > 100 * perplexity(descent, PARENT.name)
    assert perplexity(descent, RESTORED_WEIGHTS.name) == perplexity(descent, PARENT.name)
    [activation] = descent.super_activations
    assert all(
        abs(here or 0) < abs(there) / 4 for here, there in zip(activation.value, activation.parent, strict=True)
    )


def test_only_where_quality_fails_modules_are_put_back_the_lost_ones_first(
    found_pruned: ModelResult, tmp_path: Path
) -> None:
    descent = descent_of(found_pruned)
    # Only one module differs, so only one can be the cause.
    assert [one.arm.name for one in descent.texts[0].measurements] == [
        PARENT.name,
        DESCENDANT.name,
        RESTORED_WEIGHTS.name,
        RestoredModule(module=MODULE).name,
    ]
    assert perplexity(descent, RestoredModule(module=MODULE).name) == perplexity(descent, PARENT.name)
    assert descent.worst_modules[0][0] == MODULE
    sound = descent_of(measure(write(tmp_path / "changed", change_slightly_)))
    assert [one.arm.name for one in sound.texts[0].measurements] == [
        PARENT.name,
        DESCENDANT.name,
        RESTORED_WEIGHTS.name,
    ]
    assert sound.worst_modules == ()


def test_so_many_modules_are_put_back_as_the_policy_says(tmp_path: Path) -> None:
    def lose_two_(tensors: Tensors) -> None:
        # The super weight's own matrix stays, and the worst two by far are others.
        for layer, factor in ((2, -1.0), (4, -0.5)):
            tensors[f"model.layers.{layer}.self_attn.o_proj.weight"] *= factor
        round_(tensors)

    broken = write(tmp_path / "broken", lose_two_)
    descent = descent_of(measure(broken, descent={"modules": 2}, checks=["perplexity-ratio"]))
    worst = [f"model.layers.{layer}.self_attn.o_proj" for layer in (2, 4)]
    assert [one.arm.name for one in descent.texts[0].measurements[3:]] == [
        RestoredModule(module=one).name for one in worst
    ]
    assert [name for name, _ in descent.worst_modules[:2]] == worst
    whole, lost = perplexity(descent, PARENT.name), perplexity(descent, DESCENDANT.name)
    for name in worst:
        assert whole < perplexity(descent, RestoredModule(module=name).name) < lost
    none = descent_of(measure(broken, descent={"modules": 0}, checks=["perplexity-ratio"]))
    assert len(none.texts[0].measurements) == 3


@pytest.mark.slow
@pytest.mark.parametrize("change_", [round_, change_slightly_], ids=["rounded", "changed"])
def test_a_sound_descendant_passes_every_check(change_: Callable[[Tensors], None], tmp_path: Path) -> None:
    record = run(make_policy(write(tmp_path / "sound", change_)))
    skipped = {"quantization-as-configured", "task-accuracy"}
    for verdict in record.verdicts:
        expected = Status.SKIPPED if verdict.check in skipped else Status.PASS
        assert verdict.status is expected, (verdict.check, verdict.because)
    assert {"weights-intact", "generation-sane", "stopwords-not-raised"} <= {one.check for one in record.verdicts}
    [result] = record.results
    descent = result.descent
    assert descent is not None
    assert len(descent.continuations) == 5
    assert decode_record(encode_record(record)) == record
    again = judge_result(result, record.policy, [one.check for one in record.verdicts])
    assert again == record.verdicts


def test_every_text_is_measured_and_layers_on_the_first_alone(pruned: Path, tmp_path: Path) -> None:
    stories = (specimen_path().parent / "corpus.txt").read_text().splitlines()[100:120]
    (tmp_path / "other.txt").write_text("\n".join(stories))
    other = {"source": str(tmp_path / "other.txt"), "window": 32, "windows": 8}
    descent = descent_of(measure(pruned, descent={"texts": [other], "modules": 0}))
    first, second = descent.texts
    assert (first.protocol.windows, second.protocol.windows, second.protocol.window) == (16, 8, 32)
    assert first.protocol.signature != second.protocol.signature
    assert {one.protocol for one in second.measurements} == {second.protocol.signature}
    assert (
        perplexity(descent, RESTORED_WEIGHTS.name, 1)
        == perplexity(descent, PARENT.name, 1)
        != perplexity(descent, PARENT.name)
    )
    assert len(descent.layers) == 6


def count_whole_models() -> int:
    """Count the language models in memory all of whose layers are there."""
    gc.collect()
    models = [one for one in gc.get_objects() if type(one) is LlamaForCausalLM]
    return sum(all(not one.is_meta for one in model.model.layers.parameters()) for model in models)


def test_two_whole_models_are_never_in_memory(pruned: Path) -> None:
    before = count_whole_models()
    seen: dict[str, set[int]] = {}

    def count(stage: str, done: int, _: int) -> None:
        # Layers 0 to 5 of the first pass, and then of the second.
        if done in (0, 3):
            seen.setdefault(stage, set()).add(count_whole_models() - before)

    policy = make_policy(pruned, descent={"modules": 1})
    run_model(policy, "pruned", ["perplexity-ratio"], progress=count)
    assert seen["locating in the parent"] == {1}
    assert seen["opening"] == {0}
    assert seen["measuring"] == {1}


def test_a_model_that_is_open_already_is_measured_as_one_that_is_not(
    pruned: Path, found_pruned: ModelResult
) -> None:
    policy = make_policy(pruned)
    found = run_model(policy, "pruned", QUICK, checkpoint=open_checkpoint(policy.find_model("pruned")))
    assert isinstance(found, ModelResult)

    def strip(evidence: ModelResult) -> Any:
        content = json.loads(evidence.model_dump_json())
        for one in (content, *(one for text in content["descent"]["texts"] for one in text["measurements"])):
            del one["seconds"]
        return content

    assert strip(found) == strip(found_pruned)


def test_weights_that_are_not_intact_are_not_opened(tmp_path: Path) -> None:
    broken = write(tmp_path / "broken", lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    policy, told = make_policy(broken), list[str]()
    preflight(policy)
    found = run_model(policy, "broken", QUICK, progress=lambda stage, *_: told.append(stage))
    assert isinstance(found, ModelFailure)
    assert found.weights is not None
    assert not found.weights.intact
    assert "model.layers.3.mlp.up_proj.weight" in found.message
    assert len(found.message.splitlines()) == 1
    assert set(told) == {"inspecting"}


def test_a_broken_model_fails_by_the_right_check_and_the_others_are_audited(pruned: Path, tmp_path: Path) -> None:
    def spoil_(tensors: Tensors) -> None:
        tensors[SUPER][3, 3] = math.nan

    policy = make_policy(write(tmp_path / "spoilt", spoil_), pruned, descent={"modules": 0})
    record = run(policy, checks=["weights-intact", "perplexity-ratio"])
    assert [(one.model, one.check, one.status) for one in record.verdicts] == [
        ("spoilt", "weights-intact", Status.FAIL),
        ("spoilt", "perplexity-ratio", Status.SKIPPED),
        ("pruned", "weights-intact", Status.PASS),
        ("pruned", "perplexity-ratio", Status.FAIL),
    ]
    assert [one.model for one in record.failures] == ["spoilt"]
    assert [result.id for result in record.results] == ["pruned"]
    assert decode_record(encode_record(record)) == record


def test_a_live_waiver_is_put_on_the_verdict_that_it_covers(pruned: Path) -> None:
    waiver = {
        "check": "super-weight-retained",
        "model": "pruned",
        "until": "2999-01-01",
        "owner": "a",
        "reason": "b",
    }
    policy = make_policy(pruned, waiver=[waiver], descent={"modules": 0})
    [verdict] = run(policy, checks=["super-weight-retained"]).verdicts
    assert verdict.status is Status.FAIL
    assert verdict.waiver is not None


def test_a_broken_parent_is_no_fault_of_its_descendant(pruned: Path, tmp_path: Path) -> None:
    parent = write(tmp_path / "parent", lambda tensors: tensors.pop(SUPER))
    policy = Policy.model_validate({"model": [{"source": str(pruned), "parent": str(parent)}]})
    with pytest.raises(CheckpointError, match="parent"):
        run_model(policy, "pruned", QUICK)


def test_a_damaged_parent_is_told_before_anything_is_measured(pruned: Path, tmp_path: Path) -> None:
    parent = write(tmp_path / "parent", lambda _: None)
    weights = parent / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    policy = Policy.model_validate({"model": [{"source": str(pruned), "parent": str(parent)}]})
    with pytest.raises(CheckpointError, match="parent"):
        preflight(policy)
    turned = Policy.model_validate({"model": [{"source": str(parent), "parent": str(pruned)}]})
    preflight(turned)
    with pytest.raises(BrokenWeightsError):
        preflight(Policy.model_validate({"model": [{"source": str(parent)}]}))


def test_a_parent_can_be_another_of_the_policys_models(pruned: Path) -> None:
    models = [{"source": str(specimen_path()), "id": "base"}, {"source": str(pruned), "parent": "base"}]
    policy = Policy.model_validate({"model": models, "corpus": {"windows": 16}, "descent": {"modules": 0}})
    found = run_model(policy, "pruned", ["super-weight-retained"])
    assert isinstance(found, ModelResult)
    assert descent_of(found).parent.id == "base"


@pytest.mark.parametrize("parent", ["it", "owner/it"])
def test_no_model_is_its_own_parent(parent: str) -> None:
    with pytest.raises(ValidationError, match="model 'it' is its own parent"):
        Policy.model_validate({"model": [{"source": "owner/it", "parent": parent}]})
    Policy.model_validate(
        {"model": [{"source": "owner/it", "id": "new", "revision": "tuned", "parent": "owner/it"}]}
    )


def test_a_descendant_that_overflows_fails_and_does_not_stop_the_audit(tmp_path: Path) -> None:
    def blow_up_(tensors: Tensors) -> None:
        tensors[SUPER][ROW, COLUMN] = 60_000.0

    source = write(tmp_path / "huge", blow_up_)
    models = [{"source": str(source), "parent": str(specimen_path()), "dtype": "float16"}]
    policy = Policy.model_validate({"model": models, "corpus": {"windows": 16}, "descent": {"modules": 0}})
    found = run_model(policy, "huge", QUICK)
    assert isinstance(found, ModelResult)
    assert (found.location.outcome, found.location.because) == (
        Outcome.NONE,
        "the output of decoder layer 1 is not finite in float16",
    )
    descent = descent_of(found)
    measured = descent.texts[0].measured(DESCENDANT.name)
    assert measured is not None
    assert measured.loss.perplexity is None
    assert measured.agreement.spread is None
    assert descent.layers[1].finite is False
    assert any("float16, its parent in float32" in note for note in descent.notes)
    statuses = {one.check: one.status for one in judge_result(found, policy, [*QUICK, "range-fits-dtype"])}
    assert set(statuses.values()) == {Status.FAIL}


def test_the_same_bytes_as_the_parents_are_remarked_on(tmp_path: Path) -> None:
    same = shutil.copytree(specimen_path(), tmp_path / "same")
    descent = descent_of(measure(same, checks=["perplexity-ratio"]))
    assert any("byte for byte" in note for note in descent.notes)
    assert perplexity(descent, DESCENDANT.name) == perplexity(descent, PARENT.name)


def test_a_descendant_of_fewer_layers_is_measured_as_a_whole_and_says_so(tmp_path: Path) -> None:
    def drop_layer_(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".layers.5." in name]:
            del tensors[name]

    shallow = write(tmp_path / "shallow", drop_layer_)
    config = json.loads((shallow / "config.json").read_text())
    (shallow / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    descent = descent_of(measure(shallow))
    assert any("5 layers of width" in note for note in descent.notes)
    assert (descent.layers, descent.super_activations, descent.worst_modules) == ((), (), ())
    assert descent.super_weights[0].relative_error == 0.0
    assert perplexity(descent, DESCENDANT.name) > perplexity(descent, PARENT.name)
