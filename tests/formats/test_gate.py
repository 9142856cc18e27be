"""Every format through the whole gate, beside its parent; and one that lost its super weight in each of two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from formats.conftest import Opened
from safetensors.torch import load_file
from support.checkpoints import rewrite_weights
from support.stored import COLUMN, DOWN, ROW, VALUE, make

from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import CorpusPolicy, DescentPolicy, Policy
from sw_audit.record.record import Record
from sw_audit.record.verdict import Status
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import specimen_path

CHECKS = (
    "weights-intact",
    "quantization-as-configured",
    "super-weight-retained",
    "super-activation-retained",
    "perplexity-ratio",
    "generation-sane",
    "layer-error",
)


def audit(folder: Path, modules: int = 0) -> Record:
    policy = Policy(
        models=(ModelPolicy(source=str(folder), id="descendant", parent=str(specimen_path())),),
        corpus=CorpusPolicy(windows=8),
        descent=DescentPolicy(prompt_tokens=(5,), new_tokens=6, long_new_tokens=6, modules=modules),
    )
    return run(policy, checks=CHECKS)


@pytest.mark.slow
def test_every_format_goes_through_the_gate_and_is_told_from_a_broken_one(opened: Opened) -> None:
    record = audit(opened.folder)
    verdicts = {verdict.check: verdict for verdict in record.verdicts}
    assert set(verdicts) == set(CHECKS)
    # Without a quantization there is nothing to be as configured.
    plain = opened.stored.name in ("gguf-f16", "lora", "lora-merged", "sparse-2-of-4", "pruned")
    expected = Status.SKIPPED if plain else Status.PASS
    assert verdicts["quantization-as-configured"].status is expected
    for check in ("weights-intact", "super-weight-retained", "super-activation-retained"):
        assert verdicts[check].status is Status.PASS, verdicts[check].because
    evidence = record.find_model("descendant")
    assert evidence.descent is not None
    (held,) = evidence.descent.super_weights
    assert held.value == pytest.approx(VALUE, rel=0.08)
    assert evidence.quantization is None or evidence.quantization.method


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compressed-tensors-w8a8", "compressed-tensors-fp8"])
def test_a_quantized_checkpoint_that_lost_its_super_weight_fails_by_it(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path)

    before = load_file(folder / "model.safetensors")[f"{DOWN}.weight"].float()
    rewrite_weights(folder, lambda tensors: tensors[f"{DOWN}.weight"].view(torch.uint8)[ROW, COLUMN].zero_())
    after = load_file(folder / "model.safetensors")[f"{DOWN}.weight"].float()
    assert (before != after).nonzero().tolist() == [[ROW, COLUMN]]
    record = audit(folder, modules=1)
    failed = {verdict.check for verdict in record.verdicts if verdict.status is Status.FAIL}
    assert {"super-weight-retained", "super-activation-retained", "perplexity-ratio"} <= failed
    assert "weights-intact" not in failed
    assert "quantization-as-configured" not in failed
