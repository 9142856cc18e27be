"""The whole story on the shipped models: the specimen passes, what lost its super weight does not."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import LLAMA, WORDS, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.checkpoint import budget
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.explain import FAILED, INCONCLUSIVE, conclude
from sw_audit.checks.judging import judge_result
from sw_audit.checks.registry import find_checks
from sw_audit.corpus.text import read_corpus
from sw_audit.errors import CheckpointError, InputError, PolicyError
from sw_audit.locate.locator import locate_super_weights
from sw_audit.memory import measuring_peak
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.record.arm import Rounding
from sw_audit.record.location import Outcome
from sw_audit.record.record import ModelFailure, Record
from sw_audit.record.store import decode_record, encode_record
from sw_audit.record.verdict import Status
from sw_audit.runner.cache import Cache
from sw_audit.runner.run import expect_shipped, preflight, run, run_model
from sw_audit.specimen import control_path, specimen_path
from sw_audit.stopping import StoppedError

SPECIMEN, CONTROL = specimen_path(), control_path()


def audit(source: Path, **more: object) -> Record:
    corpus = {"source": "specimen", "windows": 96}
    return run(Policy.model_validate({"model": [{"source": str(source)}], "corpus": corpus, **more}))


def statuses(record: Record) -> dict[str, Status]:
    return {verdict.check: verdict.status for verdict in record.verdicts}


@pytest.fixture(scope="module")
def record() -> Record:
    return audit(specimen_path())


def test_the_specimen_passes_every_check_but_that_on_what_others_have_published(record: Record) -> None:
    alone = [check.id for check in find_checks().values() if check.is_about("model")]
    absent = ("super-experts-exceed-controls", "matches-published-index")
    assert statuses(record) == dict.fromkeys(alone, Status.PASS) | dict.fromkeys(absent, Status.SKIPPED)
    experts, published = [verdict for verdict in record.verdicts if verdict.status is Status.SKIPPED]
    assert "The model has no experts" in experts.because
    assert "the index has no entry for the folder" in published.because
    assert published.remedy is None


def test_what_pictures_are_drawn_from_is_in_the_record(record: Record) -> None:
    [result] = record.results
    [weight], [held], [around] = result.location.super_weights, result.mechanism, result.neighbourhoods
    assert (around.address, around.rank) == (weight.address, 1)
    assert result.activation_map is not None
    leaving = [abs(layer.intact.leaving) for layer in held.layers]
    span = slice(held.first_layer, held.last_layer + 1)
    assert [row[held.token] for row in result.activation_map.before][span] == pytest.approx(leaving[span])
    rounded = {one.arm.name for one in result.measurements if isinstance(one.arm.purpose, Rounding)}
    assert rounded == set(result.bits_per_weight)
    assert result.bits_per_weight["int4/16x16 plain"] == 4.125


def test_every_verdict_can_be_had_again_from_the_written_record(record: Record) -> None:
    again = decode_record(encode_record(record))
    assert again == record
    assert judge_result(again.find_model("specimen"), again.policy) == record.verdicts


def test_every_arm_was_measured_under_one_protocol(record: Record) -> None:
    [result] = record.results
    assert {found.protocol for found in result.measurements} == {result.protocol.signature}
    assert result.measurements[0].arm.name == "baseline"
    assert result.measurements[0].agreement.mean_divergence == 0.0
    assert len({found.arm.name for found in result.measurements}) == len(result.measurements)


def test_the_same_policy_gives_the_same_figures_again(record: Record) -> None:
    again = run_model(record.policy, "specimen", ["prune-collapses"])
    first = record.find_model("specimen")
    for name in ("baseline", "pruned"):
        old, new = first.measured(name), again.measured(name)
        assert old is not None
        assert new is not None
        common = min(len(old.loss.tokens), len(new.loss.tokens))
        assert old.loss.first(common) == new.loss.first(common)


@pytest.mark.slow
def test_layer_by_layer_within_a_budget_of_memory_everything_comes_out_the_same_and_the_peak_is_told(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_WHOLE_SHARE", 0.0)
    again = audit(specimen_path(), memory="161MiB")

    def strip(one: Record) -> Any:
        [model] = one.model_dump(mode="json")["models"]
        for measured in (model, *model["measurements"]):
            del measured["seconds"]
        return {key: value for key, value in model.items() if key != "memory"}

    assert strip(again) == strip(record)
    [model] = again.results
    assert model.memory is not None
    assert model.memory.budget == 161 << 20
    assert model.memory.weights_read > 10 * sum(file.size for file in model.model.files)
    assert model.memory.peak is not None
    assert not model.memory.exceeds
    assert [one.memory for one in record.results] == [None]


def test_a_budget_that_one_layer_does_not_fit_into_is_refused_before_anything_is_opened() -> None:
    policy = Policy(models=(ModelPolicy(source=str(specimen_path())),), memory=1 << 20)
    with pytest.raises(CheckpointError, match="give it more: --memory"):
        preflight(policy)
    preflight(policy.model_copy(update={"memory": 1 << 30}))


def zero_super_weight(folder: Path) -> Path:
    """Copy the specimen and zero its super weight on disk."""
    [weight] = locate_super_weights(open_checkpoint(ModelPolicy(source=str(specimen_path())))).super_weights
    shutil.copytree(specimen_path(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[weight.parameter][weight.row, weight.column] = 0.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil_values(weights: Path) -> str:
    tensors = load_file(weights)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 3] = math.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return "model.layers.2.mlp.up_proj.weight: it holds 1 NaN."


def lose_a_tensor(weights: Path) -> str:
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    return "model.norm.weight: tensor 'model.norm.weight' is missing"


def cut_off(weights: Path) -> str:
    weights.write_bytes(weights.read_bytes()[:-100])
    return "model.safetensors is cut off"


@pytest.mark.parametrize("break_file", [spoil_values, lose_a_tensor, cut_off])
def test_broken_weights_of_a_model_by_itself_fail_the_gate_and_are_not_opened(
    break_file: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = shutil.copytree(specimen_path(), tmp_path / "broken")
    said = break_file(folder / "model.safetensors")
    record = audit(folder)
    verdicts = {verdict.check: verdict for verdict in record.verdicts}
    intact = verdicts.pop("weights-intact")
    assert intact.status is Status.FAIL
    assert said in intact.because
    assert {verdict.status for verdict in verdicts.values()} == {Status.SKIPPED}
    assert conclude([record]) == FAILED
    assert [failure.model for failure in record.failures] == ["broken"]


def test_a_model_without_weight_files_is_bad_input_and_no_verdict(tmp_path: Path) -> None:
    folder = shutil.copytree(specimen_path(), tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        audit(folder)


@pytest.mark.slow
def test_a_copy_with_its_super_weight_zeroed_fails_and_says_why(tmp_path: Path) -> None:
    found = audit(zero_super_weight(tmp_path / "copy"), expect="some")
    assert found.find_model("copy").location.outcome is not Outcome.LOCATED
    expected = next(verdict for verdict in found.verdicts if verdict.check == "super-weights-as-expected")
    assert expected.status is Status.FAIL
    assert expected.remedy
    assert statuses(found)["prune-collapses"] is Status.SKIPPED


def test_the_control_has_none_which_is_an_answer_that_a_policy_can_expect() -> None:
    expected = audit(control_path())
    assert expected.find_model("control").location.outcome is Outcome.NONE
    assert statuses(expected)["super-weights-as-expected"] is Status.PASS
    assert statuses(expected)["super-weight-located"] is Status.SKIPPED
    assert Status.FAIL not in statuses(expected).values()
    skipped = [check for check, status in statuses(expected).items() if status is Status.SKIPPED]
    assert set(skipped) >= {"prune-collapses", "placebo-harmless", "holdout-beats-plain-rtn"}
    [unexpected] = judge_result(
        expected.find_model("control"), Policy(expect="some"), ["super-weights-as-expected"]
    )
    assert unexpected.status is Status.FAIL
    assert unexpected.remedy is not None
    assert 'expect = "none"' in unexpected.remedy


def test_what_ships_is_known_unless_the_policy_says_otherwise(tmp_path: Path) -> None:
    shipped = (ModelPolicy(source=str(specimen_path())), ModelPolicy(source=str(control_path())))
    models = (*shipped, ModelPolicy(source=str(tmp_path)))

    def expect(policy: Policy) -> list[str]:
        settled = expect_shipped(policy)
        return [settled.expectation(model) for model in settled.models]

    assert expect(Policy(models=models)) == ["some", "none", "any"]
    assert expect(Policy(models=models, expect="any")) == ["any", "any", "any"]
    own = models[0].model_copy(update={"expect": "none"})
    assert expect(Policy(models=(own, *models[1:]))) == ["none", "none", "any"]


ACTIVATION_CHECKS = ("activation-holdout-quality", "holdout-closes-gap")


def audit_short_text(folder: Path, **activations: object) -> Record:
    """Audit the specimen on a text that the scored windows use up."""
    text = folder / "short.txt"
    text.write_text(" ".join(read_corpus(CorpusPolicy(source="specimen")).text.split()[: 16 * 63]))
    policy = Policy.model_validate(
        {
            "model": [{"source": str(specimen_path())}],
            "corpus": {"source": str(text), "window": 64},
            "activations": {"schemes": ["w16a4"], **activations},
        }
    )
    return run(policy, checks=ACTIVATION_CHECKS)


def test_without_text_to_calibrate_on_smoothquant_is_missing_and_says_so(tmp_path: Path) -> None:
    found = audit_short_text(tmp_path)
    assert found.results[0].activations.calibration_windows == 0
    assert any("to calibrate on" in note for note in found.results[0].notes)
    gap = found.verdicts[1]
    assert (gap.status, gap.observed) == (Status.INCONCLUSIVE, None)
    assert "no calibration text" in gap.because
    assert gap.remedy is not None
    assert "Give a longer text" in gap.remedy


def test_without_text_to_calibrate_on_static_scales_are_inconclusive(tmp_path: Path) -> None:
    found = audit_short_text(tmp_path, scale="tensor")
    assert [one.arm.name for one in found.results[0].measurements] == ["baseline"]
    gap = found.verdicts[1]
    assert gap.status is Status.INCONCLUSIVE
    assert "no calibration text" in gap.because
    assert gap.remedy is not None
    assert "longer text" in gap.remedy


def test_the_record_proves_what_each_pattern_matched(record: Record) -> None:
    assert [(one.pattern, one.role, one.matrices) for one in record.results[0].targets] == [("*", "target", 42)]
    quantization = {
        "recipes": ["int4/tensor"],
        "targets": ["*.down_proj", "*.up_proj"],
        "ignore": ["*.layers.1.*"],
    }
    policy = Policy.model_validate(
        {"model": [{"source": str(specimen_path())}], "quantization": quantization, "corpus": {"windows": 8}}
    )
    found = run(policy, checks=["holdout-beats-plain-rtn"])
    counts = {one.pattern: one.matrices for one in found.results[0].targets}
    assert counts == {"*.down_proj": 6, "*.up_proj": 6, "*.layers.1.*": 2}


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_measured() -> None:
    policy = Policy.model_validate(
        {"model": [{"source": str(specimen_path())}], "quantization": {"targets": ["*.down_project"]}}
    )
    told: list[str] = []
    with pytest.raises(PolicyError, match="matches none of 42 decoder matrices"):
        run(policy, checks=["holdout-beats-plain-rtn"], progress=lambda stage, *_: told.append(stage))
    assert not any(stage.startswith("measuring") for stage in told)


def stop_at(stage: str, step: int = 0) -> Callable[[str, int, int], None]:
    """Return a progress that ends the work at a step of a stage."""

    def tell(at: str, done: int, _: int) -> None:
        if at.startswith(stage) and done == step:
            raise StoppedError("the run was stopped by the test")

    return tell


@pytest.mark.parametrize("stage", ["inspecting", "opening", "locating"])
def test_a_model_of_which_nothing_was_measured_when_the_run_was_stopped_is_inconclusive(stage: str) -> None:
    policy = Policy.model_validate({"model": [{"source": str(specimen_path())}], "laws": "gate"})
    found = run(policy, progress=stop_at(stage))
    assert isinstance(found.models[0], ModelFailure)
    assert found.models[0].stopped == "the run was stopped by the test"
    assert [verdict.check for verdict in found.verdicts] == [
        check.id for check in find_checks().values() if check.is_about("model")
    ]
    assert {(verdict.status, verdict.level) for verdict in found.verdicts} == {(Status.INCONCLUSIVE, "gate")}
    assert decode_record(encode_record(found)) == found


def test_a_run_whose_time_is_up_ends_before_anything_is_opened() -> None:
    policy = Policy.model_validate({"model": [{"source": str(specimen_path())}], "budget": 1e-6})
    told: list[str] = []
    found = run(policy, progress=lambda stage, *_: told.append(stage))
    assert (conclude([found]), told) == (INCONCLUSIVE, [])


def test_a_model_that_is_open_is_as_it_was_after_the_run_was_stopped_while_arms_change_it() -> None:
    policy = Policy.model_validate({"model": [{"source": str(specimen_path())}], "corpus": {"windows": 8}})
    checkpoint = open_checkpoint(policy.models[0])
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    chosen = ["prune-collapses", "rtn-holdout-quality"]
    found = run_model(policy, "specimen", chosen, progress=stop_at("measuring", 3), checkpoint=checkpoint)
    assert found.stopped == "the run was stopped by the test"
    after = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks for module in checkpoint.model.modules())


@pytest.mark.parametrize(
    ("parent", "check"),
    [(None, "prune-collapses"), (str(control_path()), "perplexity-ratio")],
    ids=["alone", "beside"],
)
def test_what_is_saved_is_measured_on_the_whole_text_as_it_is(parent: str | None, check: str) -> None:
    model = {"source": str(specimen_path()), "id": "m", "parent": parent}
    policy = Policy.model_validate({"model": [model], "corpus": {"source": "specimen", "windows": 24}})
    results = [run(policy, checks=[check], saved=saved).find_model("m") for saved in (False, True)]
    windows = [len(one.unedited.loss.tokens) for one in results if one.unedited is not None]
    # In short windows there are twice as many, of which a few settle these checks.
    assert windows[0] <= 8
    assert windows[1] == 48
    assert results[0].verdicts == results[1].verdicts


def open_alive(source: Path = SPECIMEN) -> tuple[Any, Any]:
    """Open a model as a notebook does."""
    return AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)


def strip(record: Record) -> Any:
    """Return what was measured and judged, but for the time that it took, and for what only files show."""
    content = record.models[0].model_dump(mode="json", exclude={"weights", "seconds", "files"})
    for key in ("files", "digest", "in_place"):
        del content["model"][key]
    texts = (content["descent"] or {"texts": []})["texts"]
    for measured in (*content["measurements"], *(one for text in texts for one in text["measurements"])):
        del measured["seconds"]
    return content


ALIVE = ["prune-collapses", "rtn-holdout-quality", "super-weights-are-the-critical-scalars", "generation-sane"]
BESIDE = ["super-weight-retained", "perplexity-ratio", "generation-sane", "layer-error", "top1-agreement"]


@pytest.mark.slow
@pytest.mark.parametrize(("parent", "checks"), [(None, ALIVE), (CONTROL, BESIDE)], ids=["alone", "beside"])
def test_a_model_that_is_audited_in_place_gets_the_figures_and_verdicts_of_its_folder(
    parent: Path | None, checks: list[str]
) -> None:
    asked = {"source": str(SPECIMEN), "parent": parent and str(parent)}
    policy = Policy.model_validate({"model": [asked], "corpus": {"windows": 8}})
    model, tokenizer = open_alive()
    before = {name: (tensor.data_ptr(), tensor.tolist()) for name, tensor in model.state_dict().items()}
    found = run(policy, model=model.train(), tokenizer=tokenizer, checks=checks)
    assert strip(found) == strip(run(policy, checks=checks))
    assert (model.training, model.lm_head.weight.requires_grad) == (True, True)
    assert {name: (one.data_ptr(), one.tolist()) for name, one in model.state_dict().items()} == before
    assert decode_record(encode_record(found)) == found


def test_without_a_policy_all_checks_that_need_no_files_run_and_the_others_say_why_not(tmp_path: Path) -> None:
    model, tokenizer = open_alive()
    cache = Cache(tmp_path / "cache")
    found = run(model=model, tokenizer=tokenizer, checks=["weights-intact", "generation-sane"], cache=cache)
    assert statuses(found) == {"weights-intact": Status.PASS, "generation-sane": Status.PASS}
    assert (
        found.verdicts[0].because
        == "57 tensors in memory were looked at, value by value, and nothing serious was found."
    )
    assert found.models[0].protocol.corpus.name == "specimen"
    assert not list(tmp_path.rglob("*.json*"))
    policy = Policy.model_validate(
        {"model": [{"source": "gone", "parent": str(CONTROL)}], "corpus": {"windows": 8}}
    )
    reading = [check.id for check in find_checks().values() if check.reads_files]
    found = run(policy, model=model, tokenizer=tokenizer, checks=reading)
    assert statuses(found) == dict.fromkeys(reading, Status.SKIPPED)
    assert {verdict.because for verdict in found.verdicts} == {
        "The model was audited in place: what it asks is in files, and none are known to hold it."
    }


@pytest.mark.parametrize(("value", "said"), [(math.nan, "it holds 1 NaN"), (None, "it is 0.5 in every place")])
def test_values_in_memory_that_are_none_fail_the_gate(value: float | None, said: str) -> None:
    model, tokenizer = open_alive()
    weight = model.model.layers[2].mlp.up_proj.weight.data
    if value is None:
        weight.fill_(0.5)
    else:
        weight[3, 3] = value
    found = run(model=model, tokenizer=tokenizer, checks=["weights-intact", "generation-sane"])
    assert statuses(found) == {"weights-intact": Status.FAIL, "generation-sane": Status.SKIPPED}
    assert f"model.layers.2.mlp.up_proj.weight: {said}" in found.verdicts[0].because


def test_ctrl_c_in_the_middle_of_an_arm_leaves_a_live_model_as_it_was() -> None:
    model, tokenizer = open_alive()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed: list[bool] = []
    down = model.model.layers[1].mlp.down_proj

    def interrupt(*_: Any) -> None:
        if not torch.equal(down.weight, before["model.layers.1.mlp.down_proj.weight"]):
            changed.append(True)
            signal.raise_signal(signal.SIGINT)

    handle = down.register_forward_pre_hook(interrupt)
    policy = Policy.model_validate({"corpus": {"windows": 8}})
    with pytest.raises(KeyboardInterrupt):
        run(policy, model=model, tokenizer=tokenizer, checks=["prune-collapses"])
    assert changed
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [len(module._forward_pre_hooks) for module in model.modules()].count(1) == 1
    handle.remove()


def test_neither_policy_nor_model_and_a_policy_of_two_are_told_in_one_line() -> None:
    with pytest.raises(InputError, match="there is neither a policy nor a model; give one of them"):
        run()
    two = Policy.model_validate({"model": [{"source": "a"}, {"source": "b"}]})
    with pytest.raises(
        InputError, match="models a and b: one live model was given; name one model, and its parent"
    ):
        run(two, model=object())
    with pytest.raises(CheckpointError, match=r"model 'object': it is a builtins\.object; give a model of transf"):
        run(model=object())


@pytest.mark.slow
def test_the_weights_of_a_live_model_are_not_in_memory_twice(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "num_key_value_heads": 2}
    model = make_model(LLAMA, **sizes)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS * 40))
    policy = Policy.model_validate({"corpus": {"source": str(text), "windows": 4, "window": 32}})
    with measuring_peak() as peak:
        found = run(policy, model=model, tokenizer=make_tokenizer(), checks=["rtn-holdout-quality"])
    assert len(found.models[0].measurements) > 3
    assert peak.added is None or peak.added < weights / 2
