"""An adapter beside the checkpoint that it was merged into: the same model, under two names and two layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tuning import COORDINATE
from transformers import AutoModelForCausalLM, AutoTokenizer

from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record
from sw_audit.record.store import keep_baseline
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path

CHECKS = ("super-weight-unmoved", "super-activation-unmoved", "quality-not-worse")


def audit(model: dict[str, str], **more: Any) -> Record:
    policy = {"model": [model], "corpus": {"windows": 16}, "expect": "any", **more}
    return run(Policy.model_validate(policy), checks=CHECKS)


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `adapter`, small and random, and `merged`, what comes of it."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(specimen_path())
    config = peft.LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, lora_alpha=1)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.02)
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(specimen_path()).save_pretrained(tmp_path / "merged")
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
def test_an_adapter_is_the_model_that_it_was_merged_into(adapted: Path) -> None:
    merged = audit({"source": "./merged"})
    keep_baseline("merged", merged)
    found = audit({"source": "./adapter", "base": str(specimen_path())}, compare="merged")
    assert [verdict.status for verdict in found.verdicts] == [Status.PASS] * 3
    drift, ratio, times = (verdict.observed for verdict in found.verdicts)
    assert drift == pytest.approx(0.0, abs=1e-6)
    assert (ratio, times) == (pytest.approx(1.0, abs=1e-5), pytest.approx(1.0, abs=1e-5))
    [weight] = merged.find_model("merged").location.super_weights
    assert (weight.layer, weight.row, weight.column) == COORDINATE
    plain = audit({"source": str(specimen_path())}, compare="merged")
    assert plain.verdicts[0].observed != 0.0  # the adapter did move the scalar
    assert (adapted / ".sw-audit/baselines/merged.json").is_file()
