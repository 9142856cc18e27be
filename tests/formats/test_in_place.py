"""Quantized models and adapters that are in memory already: audited in place as from their folders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formats.conftest import Opened
from support.stored import STORED
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record
from sw_audit.record.verdict import Status
from sw_audit.runner.run import compose_record, run, run_model
from sw_audit.specimen.shipped import specimen_path

FORMATS = ("bitsandbytes-nf4", "torchao-int8", "lora")
CHECKS = ["prune-collapses"]
TEXT = {"source": "specimen", "windows": 4}


def read(tensor: Any) -> list[Any]:
    """Read what a tensor holds; those of torchao have no memory of their own."""
    composed = type(tensor).__module__.startswith("torchao")
    values: list[Any] = tensor.dequantize().tolist() if composed else tensor.untyped_storage().tolist()
    return values


def describe(model: Any) -> dict[str, Any]:
    """Describe what a model holds, packed or not, and the modules that hold it."""
    held = dict((*model.named_parameters(), *model.named_buffers()))
    tensors = {name: (id(one), one.requires_grad, read(one)) for name, one in held.items()}
    modules = {name: {**vars(module), **module._forward_hooks} for name, module in model.named_modules()}
    return {"tensors": tensors, "modules": {name: list(map(id, one.values())) for name, one in modules.items()}}


def strip(record: Record) -> list[Any]:
    [result] = record.results
    return [
        result.location,
        [measured.model_copy(update={"seconds": 0.0}) for measured in result.measurements],
        [(verdict.status, verdict.because) for verdict in result.verdicts],
    ]


@pytest.mark.parametrize("opened", [one for one in STORED if one.name in FORMATS], indirect=True, ids=str)
def test_packed_weights_are_measured_in_place_as_from_its_folder(opened: Opened) -> None:
    model, tokenizer = opened.checkpoint.model, opened.checkpoint.tokenizer
    policy = Policy.model_validate({"model": [{"source": str(opened.folder), "id": "model"}], "corpus": TEXT})
    expected = run_model(policy, "model", CHECKS, checkpoint=opened.checkpoint)
    before = describe(model)
    found = run(policy, model=model, tokenizer=tokenizer, checks=CHECKS)
    assert describe(model) == before
    assert strip(found) == strip(compose_record([expected], policy))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
def test_an_adapter_in_training_is_measured_as_what_is_merged() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = AutoModelForCausalLM.from_pretrained(specimen_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(specimen_path())
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, lora_dropout=0.5
    )
    adapted = peft.get_peft_model(model, config).train()
    ids = torch.tensor([[1, 5, 6, 7]])
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = [None if one.grad is None else one.grad.clone() for one in adapted.parameters()]
    before = describe(adapted)
    policy = Policy.model_validate({"model": [{"source": "m", "parent": str(specimen_path())}], "corpus": TEXT})
    checks = ["super-weight-retained", "perplexity-ratio", "weights-intact"]
    found = run(policy, model=adapted, tokenizer=tokenizer, checks=checks).find_model("m")
    assert describe(adapted) == before
    for one, gradient in zip(adapted.parameters(), gradients, strict=True):
        assert one.grad is None if gradient is None else torch.equal(one.grad, gradient)
    merged = run(policy, model=adapted.merge_and_unload(), tokenizer=tokenizer, checks=checks).find_model("m")
    assert [one.status for one in found.verdicts] == [one.status for one in merged.verdicts]
    assert found.verdicts[0].status is Status.PASS
    pairs = zip(found.verdicts, merged.verdicts, strict=True)
    assert all(one.observed == pytest.approx(other.observed, rel=1e-3) for one, other in pairs)
