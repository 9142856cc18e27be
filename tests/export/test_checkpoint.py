"""A quantized checkpoint opens with transformers alone and computes what the arm computed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support.checkpoints import EXPERTS, GPT2, LLAMA, VISION, Family, make_model, make_tokenizer, save_checkpoint
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from sw_audit.arms.apply import applied_arm
from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import CheckpointError, InputError
from sw_audit.export.checkpoint import METADATA_KEY, ExportOrder, export_checkpoint
from sw_audit.measure.calibration import record_calibrations
from sw_audit.policy.policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import WeightAddress, group_addresses
from sw_audit.record.arm import Arm, Custom, Quantize
from sw_audit.record.checkpoint import Export, Form

TOKENS = torch.tensor([[1, 5, 6, 7, 8, 9]])
MIXTRAL = next(family for family in EXPERTS if family.model_type == "mixtral")
LLAVA = next(family for family in VISION if family.model_type == "llava")
DOWN = "model.layers.1.mlp.down_proj.weight"
HELD = WeightAddress(parameter=DOWN, row=5, column=7)


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return logits


def run_arm(checkpoint: Checkpoint, order: ExportOrder) -> torch.Tensor:
    """Run a model with the arm in force on all of its layers at once."""
    act = Quantize(
        recipe=order.recipe, holdout=group_addresses(order.keep), targets=order.targets, ignore=order.ignore
    )
    with ExitStack() as stack:
        for layer in checkpoint.layers:
            stack.enter_context(applied_arm(Arm(purpose=Custom(label="x"), acts=(act,)), layer))
        return run(checkpoint.model)


def export(
    source: Path, out: Path, notation: str, form: Form = "dense", **order: Any
) -> tuple[Export, torch.Tensor]:
    """Export a model, and return what was done and what the arm computes."""
    asked = ExportOrder(parse_recipe(notation), form, **order)
    expected = run_arm(open_checkpoint(ModelPolicy(source=str(source))), asked)
    policy = ModelPolicy(source=str(source))
    done = export_checkpoint(open_checkpoint(policy), asked, out, CheckpointFolder.require(policy))
    return done, expected


def reopen(folder: Path, auto: Any = AutoModelForCausalLM, **options: Any) -> Any:
    with quiet_libraries():
        return auto.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("family", [LLAMA, GPT2, MIXTRAL, LLAVA], ids=str)
def test_a_dense_checkpoint_computes_what_the_arm_does_to_the_last_bit(family: Family, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source", family)
    done, expected = export(source, tmp_path / "out", "int3/8x8/z3")
    auto = AutoModelForImageTextToText if family is LLAVA else AutoModelForCausalLM
    assert torch.equal(run(reopen(tmp_path / "out", auto)), expected)
    assert not torch.equal(run(open_checkpoint(ModelPolicy(source=str(source))).model), expected)
    assert done.matrices > 0
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.encode("fox owl") == make_tokenizer().encode("fox owl")


def test_half_precision_stays_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sw_audit.checkpoint.dtype.multiplies_bfloat16", lambda: True)
    make_model(LLAMA).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    make_tokenizer().save_pretrained(tmp_path / "source")
    done, expected = export(tmp_path / "source", tmp_path / "out", "nf4/group8")
    model = reopen(tmp_path / "out")
    assert (done.dtype, model.dtype) == ("bfloat16", torch.bfloat16)
    assert torch.equal(run(model), expected)


def test_what_is_held_out_is_stored_bit_for_bit_and_named_everywhere(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source")
    value = make_model(LLAMA).get_parameter(DOWN)[5, 7].item()
    done, _ = export(source, tmp_path / "out", "int2/tensor", keep=(HELD,), because="tried out")
    assert reopen(tmp_path / "out").get_parameter(DOWN)[5, 7].item() == value
    assert [(held.address, held.value) for held in done.held_out] == [(HELD, value)]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert Export.model_validate_json(file.metadata()[METADATA_KEY]) == done
    length = int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0  # so that tensors can be mapped where they lie
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "`int2/tensor`" in card
    assert f"| `{DOWN}[5, 7]` | {value!r} |" in card
    assert "tried out" in card


def test_embeddings_head_norms_and_what_is_ignored_stay_as_they_were(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source")
    done, _ = export(source, tmp_path / "out", "int2/tensor", targets=("*.mlp.*",), ignore=("*.down_proj",))
    before, after = make_model(LLAMA), reopen(tmp_path / "out")
    changed = {
        name for name, tensor in after.named_parameters() if not torch.equal(tensor, before.get_parameter(name))
    }
    assert changed == {f"model.layers.{n}.mlp.{part}_proj.weight" for n in range(3) for part in ("gate", "up")}
    assert [(match.pattern, match.matrices) for match in done.patterns] == [("*.mlp.*", 9), ("*.down_proj", 3)]


def test_bits_per_weight_count_what_is_rounded_and_what_is_not(tmp_path: Path) -> None:
    # Of a Llama layer's seven matrices only down_proj [32, 40] is rounded: 4 bits a weight, 16 of scale a row.
    source = save_checkpoint(tmp_path / "source")
    done, _ = export(source, tmp_path / "out", "int4/row/symmetric", targets=("*.down_proj",))
    query, key, gate = 48 * 32, 24 * 32, 40 * 32
    others = 2 * query + 2 * key + 2 * gate
    assert done.bits_per_weight == (4 * 32 * 40 + 16 * 32 + 32 * others) / (32 * 40 + others)


@pytest.mark.parametrize("notation", ["int4/group8/symmetric", "int8/row/symmetric", "int5/tensor/symmetric/z3"])
def test_packed_weights_compute_what_the_arm_does(notation: str, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source")
    done, expected = export(source, tmp_path / "out", notation, "compressed-tensors")
    # Codes times scales in float32, as the arm has it.
    assert torch.allclose(run(reopen(tmp_path / "out")), expected, rtol=0, atol=1e-5)
    assert done.matrices == 21
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "model.layers.0.mlp.up_proj.weight_packed" in set(file.keys())
        assert "model.layers.0.mlp.up_proj.weight" not in set(file.keys())


def test_the_module_of_a_weight_that_is_held_out_is_not_packed(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "source")
    done, _ = export(source, tmp_path / "out", "int4/row/symmetric", "compressed-tensors", keep=(HELD,))
    assert done.untouched == ("model.layers.1.mlp.down_proj",)
    assert done.matrices == 20
    model = reopen(tmp_path / "out")
    assert torch.equal(model.get_parameter(DOWN), make_model(LLAMA).get_parameter(DOWN))
    assert "model.layers.1.mlp.down_proj" in model.config.quantization_config.quantization_config.ignore


def refuse(source: Path, out: Path, notation: str, form: Form = "dense", **order: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        export(source, out, notation, form, **order)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["source"]
    return caught.value


def test_what_cannot_be_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    source, out = save_checkpoint(tmp_path / "source"), tmp_path / "out"
    assert "matches none" in str(refuse(source, out, "int4/row", targets=("*.no_such",)))
    stranger = WeightAddress(parameter="model.layers.9.mlp.down_proj.weight", row=0, column=0)
    assert "the model has no such matrix" in str(refuse(source, out, "int4/row", keep=(stranger,)))
    outside = WeightAddress(parameter=DOWN, row=32, column=0)
    assert isinstance(refuse(source, out, "int4/row", keep=(outside,)), CheckpointError)
    refusal = refuse(source, out, "int4/group7/symmetric", "compressed-tensors")
    assert "is not a multiple of the scaling group 1 x 7" in str(refusal)
    assert isinstance(refuse(source, out, "int4/row/search"), InputError)


def test_a_searched_clip_learns_from_what_a_prompt_showed_of_each_layer(tmp_path: Path) -> None:
    policy = ModelPolicy(source=str(save_checkpoint(tmp_path / "source")))
    order, checkpoint = ExportOrder(parse_recipe("int2/row/search")), open_checkpoint(policy)
    seen = record_calibrations(checkpoint, TOKENS[0].tolist())
    arm = Arm(purpose=Custom(label="x"), acts=(Quantize(recipe=order.recipe),))
    with ExitStack() as stack:
        for layer, calibration in zip(checkpoint.layers, seen, strict=True):
            stack.enter_context(applied_arm(arm, layer, calibration))
        expected = run(checkpoint.model)
    export_checkpoint(checkpoint, order, tmp_path / "out", CheckpointFolder.require(policy), calibrations=seen)
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), expected)


def test_experts_and_transposed_matrices_are_not_packed(tmp_path: Path) -> None:
    for number, family in enumerate((GPT2, MIXTRAL)):
        policy = ModelPolicy(source=str(save_checkpoint(tmp_path / str(number), family)))
        order = ExportOrder(parse_recipe("int4/row/symmetric"), "compressed-tensors")
        with pytest.raises(CheckpointError, match="packs plain Linear modules only"):
            export_checkpoint(open_checkpoint(policy), order, tmp_path / "out", CheckpointFolder.require(policy))
