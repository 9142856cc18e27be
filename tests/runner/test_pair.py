"""A model beside its parent: what was done to it is found, what is put back recovers it, what is broken stops."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support.checkpoints import EXPERTS, LLAMA, make_tokenizer, rewrite_config, rewrite_weights, save_checkpoint
from support.critical import make_search
from transformers import LlamaForCausalLM

from sw_audit.checkpoint.lint import lint_checkpoint
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.judging import judge_failure, judge_result, list_checks
from sw_audit.checks.registry import find_checks
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.quantize.rtn import round_to_nearest
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_SCALARS,
    RESTORED_WEIGHTS,
    RestoredKind,
    RestoredLayer,
    RestoredModule,
)
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import Descent
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.store import decode_record, encode_record
from sw_audit.record.verdict import Evidence, Status, Verdict
from sw_audit.runner.run import compose_record, preflight, run, run_model
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


def test_where_the_super_weights_recover_all_nothing_more_is_put_back(found_pruned: ModelResult) -> None:
    descent = descent_of(found_pruned)
    assert [one.arm.name for one in descent.texts[0].measurements] == [
        PARENT.name,
        DESCENDANT.name,
        RESTORED_WEIGHTS.name,
    ]
    assert descent.recovery is None
    [verdict] = [one for one in found_pruned.verdicts if one.check == "perplexity-ratio"]
    assert verdict.remedy is not None
    assert verdict.remedy.startswith(f"Leave {MODULE} out of quantization")
    assert "100 % [100, 100] of the loss is recovered" in verdict.remedy


def test_of_a_sound_descendant_nothing_is_put_back_but_its_super_weights(tmp_path: Path) -> None:
    sound = descent_of(measure(write(tmp_path / "changed", change_slightly_)))
    assert len(sound.texts[0].measurements) == 3
    assert (sound.recovery, sound.worst_modules) == (None, ())


def lose_two_(tensors: Tensors) -> None:
    # The super weight's own matrix stays, and the worst two by far are others.
    for layer, factor in ((2, -1.0), (4, -0.5)):
        tensors[f"model.layers.{layer}.self_attn.o_proj.weight"] *= factor
    round_(tensors)


@pytest.fixture(scope="module")
def lost_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gate") / "lost-two", lose_two_)


def test_of_two_modules_that_were_lost_exactly_these_are_found(lost_two: Path) -> None:
    found = measure(lost_two, descent={"modules": 3, "layers": 2}, checks=["perplexity-ratio"])
    descent, worst = descent_of(found), [f"model.layers.{layer}.self_attn.o_proj" for layer in (2, 4)]
    recovery = descent.recovery
    assert recovery is not None
    assert (recovery.protocol.windows, recovery.protocol.window) == (8, 128)
    purposes = [one.arm.purpose for one in recovery.measurements]
    assert purposes[:5] == [PARENT, DESCENDANT, RESTORED_WEIGHTS, *(RestoredModule(module=one) for one in worst)]
    assert purposes[6:8] == [RestoredLayer(layer=f"model.layers.{layer}") for layer in (2, 4)]
    assert sum(isinstance(one, RestoredKind) for one in purposes) == 7
    assert [name for name, _ in descent.worst_modules[:2]] == worst
    assert descent.modules == 6 * 7
    [verdict] = found.verdicts
    assert verdict.remedy is not None
    assert {one.text for one in verdict.paste} >= {f'ignore=["lm_head", "{worst[0]}", "{worst[1]}"]'}
    assert f"Leave {worst[0]}, {worst[1]} out of quantization" in verdict.remedy
    assert "alone" in verdict.remedy


def test_a_loss_that_is_spread_over_all_modules_is_said_to_be(tmp_path: Path) -> None:
    def disturb_(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(4)
        for name, tensor in list_matrices(tensors):
            # One kind of modules carries most of this small model, and is spared.
            scale = 0.8 * float("v_proj" not in name)
            noise = scale * tensor.std() * torch.randn(tensor.shape, generator=generator)
            noise[ROW, COLUMN] *= float(name != SUPER)
            tensor += noise

    found = measure(write(tmp_path / "disturbed", disturb_), checks=["perplexity-ratio"])
    [verdict] = found.verdicts
    assert verdict.status is Status.FAIL
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("The loss is spread over many modules, and leaving some out will not do: ")
    assert verdict.paste == ()
    assert "with all of the parent's decoder layers put back 100 % [100, 100]" in verdict.because


def test_where_the_policy_says_so_nothing_is_looked_for(lost_two: Path) -> None:
    none = descent_of(measure(lost_two, descent={"modules": 0}, checks=["perplexity-ratio"]))
    assert (len(none.texts[0].measurements), none.recovery) == (3, None)


@pytest.mark.slow
@pytest.mark.parametrize("change_", [round_, change_slightly_], ids=["rounded", "changed"])
def test_a_sound_descendant_passes_every_check(change_: Callable[[Tensors], None], tmp_path: Path) -> None:
    record = run(make_policy(write(tmp_path / "sound", change_)))
    skipped = {"answers-not-longer", "engine-agrees", "experts-quantized-alike", "decisions-kept", "merge-replays"}
    skipped |= {"quantization-as-configured", "task-accuracy"}
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
    first, whole, second = descent.texts
    assert [text.protocol.window for text in descent.texts] == [64, 128, 32]
    assert whole.protocol.corpus == first.protocol.corpus
    assert list(descent.label_texts())[1].endswith(" in windows of 128")
    assert first.protocol.signature != second.protocol.signature
    assert {one.protocol for one in second.measurements} == {second.protocol.signature}
    assert (
        perplexity(descent, RESTORED_WEIGHTS.name, 2)
        == perplexity(descent, PARENT.name, 2)
        != perplexity(descent, PARENT.name)
    )
    assert len(descent.layers) == 6


def count_whole_models() -> int:
    """Count the language models in memory all of whose layers are there."""
    gc.collect()
    models = [one for one in gc.get_objects() if type(one) is LlamaForCausalLM]
    return sum(all(not one.is_meta for one in model.model.layers.parameters()) for model in models)


def test_two_whole_models_are_never_in_memory(lost_two: Path) -> None:
    before = count_whole_models()
    seen: dict[str, set[int]] = {}

    def count(stage: str, done: int, _: int) -> None:
        # Layers 0 to 5 of the first pass, and then of the second.
        if done in (0, 3):
            seen.setdefault(stage, set()).add(count_whole_models() - before)

    policy = make_policy(lost_two, descent={"modules": 1})
    run_model(policy, "lost-two", ["perplexity-ratio"], progress=count)
    assert seen["locating in the parent"] == {1}
    assert seen["opening"] == {0}
    assert [counts for stage, counts in seen.items() if stage.startswith("measuring on")] == [{1}, {1}]


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
    assert set(measured.agreement.token_divergence) == {None}
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


DATA = Path(__file__).parents[1] / "formats" / "data"


def gate(folder: Path, parent: Path, **options: Any) -> ModelFailure:
    """Hold a checkpoint beside its parent, and return why it was not opened."""
    model = ModelPolicy.model_validate({"source": str(folder), "id": "it", "parent": str(parent), **options})
    policy = Policy(models=(model,))
    preflight(policy)
    checks = [check.id for check in list_checks(policy, model)]
    failure = run_model(policy, "it", checks)
    assert isinstance(failure, ModelFailure)
    verdicts = {verdict.check: verdict for verdict in judge_failure(failure, policy, checks)}
    assert list(verdicts) == checks
    intact = verdicts.pop("weights-intact")
    assert intact.status is Status.FAIL
    assert intact.remedy is not None
    unread = [verdict for name, verdict in verdicts.items() if not find_checks()[name].static]
    assert {verdict.status for verdict in unread} == {Status.SKIPPED}
    return failure


def assert_flaw(failure: ModelFailure, kind: str, where: str, found: str) -> None:
    assert failure.weights is not None
    first = failure.weights.flaws[0]
    assert (first.kind, first.where, first.serious) == (kind, where, True)
    assert found in first.found
    assert first.found in failure.message
    assert "\n" not in failure.message


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "parent")


@pytest.fixture
def folder(parent: Path, tmp_path: Path) -> Path:
    """A descendant that is still the parent's exact copy."""
    return Path(shutil.copytree(parent, tmp_path / "descendant"))


def store_codes_(tensors: Tensors) -> None:
    """Store every decoder matrix as int8 codes with a scale per row, as LLM.int8 does."""
    for name in [name for name in tensors if "_proj" in name]:
        weight = tensors[name]
        scale = weight.abs().amax(dim=1)
        tensors[name] = (weight / scale[:, None] * 127).round().to(torch.int8)
        tensors[name.removesuffix("weight") + "SCB"] = scale


def store_quanto_(tensors: Tensors) -> None:
    """Store every decoder matrix under the names that optimum-quanto gives its parts."""
    store_codes_(tensors)
    for name in [name for name in tensors if "_proj.weight" in name]:
        tensors[f"{name}._data"] = tensors.pop(name)
        tensors[f"{name}._scale"] = tensors.pop(name.removesuffix("weight") + "SCB")[:, None]


CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "a missing tensor": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors.pop(SUPER)),
        "missing-tensor",
        SUPER,
        "is missing",
    ),
    "an unexpected tensor": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors.update(odd=torch.ones(3))),
        "unexpected-tensor",
        "odd",
        "has no place in the model",
    ),
    "another shape": (
        lambda folder: rewrite_weights(folder, lambda t: t.update({SUPER: torch.randn(32, 41)})),
        "mismatched-tensor",
        SUPER,
        "has shape [32, 41], config.json asks for [32, 40]",
    ),
    "an unknown quant_method": (
        lambda folder: rewrite_config(folder, quantization_config={"quant_method": "squeeze"}),
        "unknown-method",
        "config.json",
        "transformers knows no quant_method 'squeeze'",
    ),
    "int8 codes without a configuration": (
        lambda folder: rewrite_weights(folder, store_codes_),
        "codes-without-config",
        "model.layers.0.mlp.down_proj.weight",
        "it is stored as I8, and config.json has no quantization_config",
    ),
    "a directory of optimum-quanto": (
        lambda folder: rewrite_weights(folder, store_quanto_),
        "codes-without-config",
        "model.layers.0.mlp.down_proj.weight._data",
        "it is stored as I8, and config.json has no quantization_config",
    ),
    "HQQ over floats": (
        lambda folder: rewrite_config(folder, quantization_config={"quant_method": "hqq", "quant_config": {}}),
        "config-without-codes",
        "config.json",
        "config.json says hqq, and every tensor is stored as plain numbers",
    ),
    "NaN": (
        lambda folder: rewrite_weights(folder, lambda tensors: tensors[SUPER][3, 3:5].fill_(float("nan"))),
        "non-finite",
        SUPER,
        "it holds 2 NaN",
    ),
    "an infinity": (
        lambda folder: rewrite_weights(folder, lambda t: t["model.norm.weight"][2].fill_(-float("inf"))),
        "non-finite",
        "model.norm.weight",
        "it holds 1 infinite value",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_loads_in_silence_is_stopped_from_the_files_alone(case: str, parent: Path, folder: Path) -> None:
    damage, kind, where, found = CASES[case]
    damage(folder)
    failure = gate(folder, parent)
    assert_flaw(failure, kind, where, found)
    # Nothing had to be opened for it.
    assert failure.weights == lint_checkpoint(ModelPolicy(source=str(folder)))


def lose_tokenizer_(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lose_tokenizer_, "there is no tokenizer in the folder"),
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        "there is no config.json in the folder",
    ),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "no family": (lambda folder: rewrite_config(folder, model_type=None), "config.json names no model_type"),
    "an encoder-decoder": (
        lambda folder: rewrite_config(folder, is_encoder_decoder=True, model_type="t5"),
        "t5 is an encoder-decoder model",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_no_language_model_fails_beside_its_parent_and_cannot_be_used_alone(
    case: str, parent: Path, folder: Path
) -> None:
    damage, found = UNFIT[case]
    damage(folder)
    assert_flaw(gate(folder, parent), "unfit", f"model '{folder}'", found)
    alone = Policy(models=(ModelPolicy(source=str(folder), id="it"),))
    with pytest.raises(CheckpointError, match=found):
        preflight(alone)
    with pytest.raises(CheckpointError, match=found):
        run_model(alone, "it", ["weights-intact", "perplexity-ratio"])


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_folder_that_is_not_there_or_empty_is_no_failure_of_a_model(
    place: str, parent: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    model = ModelPolicy(source=str(tmp_path / place), id="it", parent=str(parent))
    with pytest.raises(CheckpointError, match=r"there is no such folder|the folder is empty"):
        preflight(Policy(models=(model,)))


@pytest.mark.parametrize(
    ("made", "where"),
    [
        ("llm-compressor-W4A16", "weight_packed"),
        ("llm-compressor-W8A8", "weight"),
        ("llm-compressor-FP8", "weight"),
        ("llm-compressor-NVFP4A16", "weight_packed"),
        ("llm-compressor-MXFP4A16", "weight_packed"),
        ("auto-round-gptq", "qweight"),
        ("auto-round-awq", "qweight"),
        ("auto-round-round", "qweight"),
    ],
)
def test_a_configuration_that_was_stripped_is_stopped(made: str, where: str, parent: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / made, tmp_path / "stripped"))
    for path in parent.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    failure = gate(rewrite_config(folder, quantization_config=None), parent)
    assert failure.weights is not None
    codes = [flaw for flaw in failure.weights.flaws if flaw.kind == "codes-without-config"]
    # Six layers of seven matrices each.
    assert failure.weights.counts["codes-without-config"] == 42
    assert all(flaw.where.endswith(f".{where}") and flaw.serious for flaw in codes)
    assert failure.weights.remedy == "put the `quantization_config` of the quantized model back into config.json"


def test_experts_that_a_library_left_alone_are_told_and_no_failure(tmp_path: Path) -> None:
    mixtral = next(family for family in EXPERTS if family.model_type == "mixtral")

    def quantize_(tensors: Tensors) -> None:
        attention = {name: tensors.pop(name) for name in list(tensors) if "self_attn" in name}
        store_codes_(attention)
        tensors.update(attention)

    folder = rewrite_weights(save_checkpoint(tmp_path, mixtral), quantize_)
    rewrite_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    report = lint_checkpoint(ModelPolicy(source=str(folder)))
    [flaw] = report.flaws
    assert (flaw.kind, flaw.serious, report.intact) == ("unquantized-experts", False, True)
    # 3 layers, 4 experts, 3 matrices.
    assert (
        flaw.found == "bitsandbytes left the experts as they were: 36 tensors such as this one are plain numbers"
    )


def pack_experts_(tensors: Tensors) -> None:
    """Pack each expert's matrices by themselves into 4 bits, under the names that llm-compressor gives them."""
    renamed = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for stored in [name for name in tensors if ".experts." in name]:
        weight = tensors.pop(stored)
        name = ".".join(renamed.get(part, part) for part in stored.split("."))
        scale = weight.abs().amax(dim=1, keepdim=True) / 7
        codes = (weight / scale).round().to(torch.int32) + 8
        shifts = torch.arange(8, dtype=torch.int32) * 4
        tensors[f"{name}_packed"] = (codes.reshape(len(codes), -1, 8) << shifts).sum(dim=2).to(torch.int32)
        tensors[f"{name}_scale"] = scale
        tensors[f"{name}_shape"] = torch.tensor(weight.shape)


W4A16 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*gate$"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        }
    },
}


@pytest.mark.slow
def test_experts_that_were_packed_one_by_one_are_stopped_when_they_do_not_fit(tmp_path: Path) -> None:
    if find_spec("compressed_tensors") is None:
        pytest.skip("compressed_tensors is not installed")
    mixtral = next(family for family in EXPERTS if family.model_type == "mixtral")
    parent = save_checkpoint(tmp_path / "parent", mixtral)
    folder = Path(shutil.copytree(parent, tmp_path / "packed"))
    rewrite_config(rewrite_weights(folder, pack_experts_), quantization_config=W4A16)
    failure = gate(folder, parent)
    assert failure.weights is not None
    assert failure.weights.flaws[0].kind in ("missing-tensor", "unexpected-tensor")
    assert "experts" in failure.weights.flaws[0].where


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a truncated file": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-400]
        ),
        "unreadable",
        "is cut off",
    ),
    "an empty file": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "unreadable", "is empty"),
    "a git-LFS pointer": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "unreadable",
        "is a git-LFS pointer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_descendant_fails_the_gate_and_ends_no_run(case: str, parent: Path, folder: Path) -> None:
    damage, kind, found = REFUSED[case]
    damage(folder)
    assert_flaw(gate(folder, parent), kind, "model.safetensors", found)


def test_a_missing_shard_and_an_index_that_lies_are_stopped(parent: Path, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "shards", LLAMA, max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    shard = whole["weight_map"][SUPER]
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "ghost": shard}}))
    assert_flaw(
        gate(folder, parent), "shard-index", "ghost", f"the index promises it in {shard}, which has it not"
    )
    index.write_text("{")
    assert_flaw(gate(folder, parent), "shard-index", index.name, "is not JSON")
    index.write_text(json.dumps(whole))
    (folder / shard).unlink()
    assert_flaw(gate(folder, parent), "shard-index", shard, f"shard {shard} is missing")


@pytest.mark.parametrize("rule", ["auto", "always"])
def test_a_descendant_begins_as_its_parent_does_whatever_its_own_files_say(rule: str, tmp_path: Path) -> None:
    parent, child = (save_checkpoint(tmp_path / name, tokenizer=False) for name in ("parent", "child"))
    make_tokenizer(adds=False).save_pretrained(parent)
    make_tokenizer(adds=True).save_pretrained(child)
    (tmp_path / "text.txt").write_text("the fox sang , the owl slept . " * 40)
    corpus = {"source": str(tmp_path / "text.txt"), "window": 9, "windows": 8, "bos": rule}
    model = {"source": str(child), "parent": str(parent)}
    [result] = run(Policy.model_validate({"model": (model,), "corpus": corpus}), checks=QUICK).models
    assert isinstance(result, ModelResult)
    assert result.descent is not None
    prepended = rule == "always"
    assert result.protocol.bos == ("prepended" if prepended else "not added")
    assert (result.location.bos, result.descent.parent_location.bos) == (prepended, prepended)
    told = (
        "It was measured without a BOS token before every text, as its parent was; by itself it is used with one."
    )
    assert (told in result.descent.notes) != prepended


def test_a_text_goes_on_when_it_comes_to_decide_after_another_has_settled(
    pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waited_for = judge_result, iter([0, 1])

    def judge(result: ModelResult, policy: Policy, checks: list[str]) -> tuple[Verdict, ...]:
        """Let the first text decide, then the second, and then nothing be open."""
        [verdict] = real(result, policy, checks)
        number = next(waited_for, None)
        if number is None:
            return (verdict,)
        signature = descent_of(result).texts[number].protocol.signature
        open_ = {"status": Status.INCONCLUSIVE, "protocol": signature, "evidence": Evidence(count=4)}
        return (verdict.model_copy(update=open_),)

    monkeypatch.setattr("sw_audit.runner.pair.judge_result", judge)
    found = measure(pruned, checks=["perplexity-ratio"], descent={"modules": 0})
    reached = [len(text.measurements[0].loss.tokens) for text in descent_of(found).texts]
    assert reached == [8, 8]


GAIN = "model.layers.2.input_layernorm.weight"


@pytest.fixture(scope="module")
def found_moved(tmp_path_factory: pytest.TempPathFactory) -> ModelResult:
    """What is found of a specimen with a gain turned round and an entry of its embedding halved."""

    def move_(tensors: Tensors) -> None:
        tensors[GAIN][5] *= -1.0
        tensors["model.embed_tokens.weight"][0, 39] *= 0.5

    return measure(write(tmp_path_factory.mktemp("gate") / "moved", move_), ["critical-scalars-retained"])


def test_critical_scalars_that_moved_are_named_and_putting_them_back_recovers_all(
    found_moved: ModelResult,
) -> None:
    descent = descent_of(found_moved)
    [verdict] = found_moved.verdicts
    entry, gain = "model.embed_tokens.weight[0, 39]", f"{GAIN}[5]"
    assert verdict.status is Status.FAIL
    assert {one.label for one in verdict.findings if one.status is Status.FAIL} == {entry, gain}
    assert verdict.because.startswith(f"{entry} was -1.186 and is -0.5928, 50 percent off; zeroed alone it")
    assert "and its sign has turned" in next(one.because for one in verdict.findings if one.label == gain)
    names = [one.arm.name for one in descent.texts[0].measurements]
    assert names[3:] == [f"parent-scalar/{entry}", f"parent-scalar/{gain}", RESTORED_SCALARS.name]
    assert perplexity(descent, RESTORED_SCALARS.name) == perplexity(descent, PARENT.name)
    assert perplexity(descent, f"parent-scalar/{gain}") < perplexity(descent, DESCENDANT.name)
    assert all(len(text.measurements) == 3 for text in descent.texts[1:])
    assert "put back 100 %" not in (verdict.remedy or "")
    assert decode_record(encode_record(compose_record([found_moved], Policy()))).results == (found_moved,)
    assert all(weight.impact == "bearing" for weight in descent.parent_location.super_weights)


def test_a_parent_is_searched_once_for_all_its_descendants_and_under_quick_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Any] = []

    def search(*given: Any, **named: Any) -> CriticalSearch:
        searched.append((given, named))
        return make_search()

    monkeypatch.setattr("sw_audit.critical.search.find_critical_scalars", search)
    folders = [write(tmp_path / name, change_slightly_) for name in ("one", "two")]
    record = run(make_policy(*folders), checks=["critical-scalars-retained"])
    assert [verdict.status for verdict in record.verdicts] == [Status.PASS, Status.PASS]
    assert len(searched) == 1
    [skipped] = run(make_policy(folders[0], effort="quick"), checks=["critical-scalars-retained"]).verdicts
    assert (skipped.status, len(searched)) == (Status.SKIPPED, 1)
