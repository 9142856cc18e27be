"""Merges of peft, as the library itself does them, against their replay from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checks.context import StaticContext
from sw_audit.checks.merge_replays import merge_replays
from sw_audit.files.merge import replay_merge
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.files import ComparedFiles
from sw_audit.record.record import ModelFailure
from sw_audit.record.verdict import Status
from sw_audit.specimen.shipped import specimen_path

peft = pytest.importorskip("peft")
LINEAR = ["q_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": LINEAR},
    "rank-stabilized": {"target_modules": LINEAR, "use_rslora": True},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"q_proj": 8},
        "alpha_pattern": {"layers.1.mlp.down_proj": 3},
    },
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved-modules": {"target_modules": LINEAR, "modules_to_save": ["lm_head"]},
    "dora": {"target_modules": LINEAR, "use_dora": True},
}


# peft asks transformers for what it has renamed, and says that it saves embeddings.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("dtype", "safe"), [("float32", False), ("bfloat16", True), ("float16", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_merges_passes_and_what_it_did_not_merge_fails(
    kind: str, dtype: str, safe: bool, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(specimen_path(), dtype=dtype)
    parent = tmp_path / "parent"
    model.save_pretrained(parent)
    torch.manual_seed(1)
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **KINDS[kind]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "embedding" in name or ("modules_to_save" in name and parameter.requires_grad):
                parameter.add_(torch.randn_like(parameter) * 0.02)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload(safe_merge=safe).save_pretrained(tmp_path / "merged")
    assert judge(tmp_path / "merged", parent, tmp_path / "adapter") is Status.PASS
    assert judge(parent, parent, tmp_path / "adapter") is Status.FAIL


def judge(model: Path, parent: Path, adapter: Path) -> Status:
    policy = ModelPolicy(source=str(model), parent="base", adapter=str(adapter))
    base = ModelPolicy(source=str(parent))
    merge = replay_merge(*(CheckpointFolder.require(one) for one in (policy, base)))
    failure = ModelFailure(model=policy.id, message="", files=ComparedFiles(merge=merge))
    return merge_replays.rule(StaticContext(merge_replays, failure, Policy(models=(policy,)))).status
