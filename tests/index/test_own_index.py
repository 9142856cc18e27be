"""The whole way: a parent's finding in one's own index gates what is made from the parent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.judging import judge_result
from sw_audit.errors import PolicyError
from sw_audit.index.growing import add_finding, describe_finding
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.published import Match
from sw_audit.record.store import write_text
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.run import preflight, run_model
from sw_audit.specimen.shipped import specimen_path

CHECK = "matches-published-index"


@pytest.fixture(scope="module")
def parent() -> Path:
    return specimen_path()


@pytest.fixture(scope="module")
def own_index(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("index") / "mine.toml"
    policy = Policy(models=(ModelPolicy(source=str(parent), id="parent"),))
    checkpoint = open_checkpoint(policy.find_model("parent"))
    location = locate_super_weights(checkpoint)
    identity = checkpoint.identity.model_copy(update={"source": "me/parent"})
    assert add_finding(
        file, describe_finding(identity, location, tool="t", created="2026", settings={}), write_text
    )
    return str(file)


def audit(source: Path, index: str | None, name: str | None = None) -> tuple[Verdict, Match | None]:
    policy = Policy(models=(ModelPolicy(source=str(source), id="it", index=name),), index=index)
    preflight(policy)
    evidence = run_model(policy, "it", [CHECK])
    (verdict,) = judge_result(evidence, policy, [CHECK])
    return verdict, evidence.published.match if evidence.published else None


def test_the_parent_itself_is_known_by_its_weights(parent: Path, own_index: str) -> None:
    verdict, match = audit(parent, own_index)
    assert (verdict.status, match) == (Status.PASS, Match.DIGEST)


def test_a_descendant_that_kept_the_super_weight_passes(parent: Path, own_index: str, tmp_path: Path) -> None:
    child = tmp_path / "child"
    shutil.copytree(parent, child)
    tensors = load_file(child / "model.safetensors")
    save_file(
        {name: tensor * 1.0001 for name, tensor in tensors.items()}, child / "model.safetensors", {"format": "pt"}
    )
    verdict, match = audit(child, own_index, "me/parent")
    assert (verdict.status, match) == (Status.PASS, Match.NAMED)
    assert audit(child, own_index)[0].status is Status.SKIPPED
    assert audit(child, own_index, "none")[0].status is Status.SKIPPED


def test_a_descendant_that_lost_the_super_weight_fails(parent: Path, own_index: str, tmp_path: Path) -> None:
    child = tmp_path / "child"
    shutil.copytree(parent, child)
    policy = Policy(models=(ModelPolicy(source=str(parent), id="parent"),))
    [address] = locate_super_weights(open_checkpoint(policy.find_model("parent"))).addresses
    tensors = load_file(child / "model.safetensors")
    tensors[address.parameter][address.row, address.column] = 0.0
    save_file(tensors, child / "model.safetensors", {"format": "pt"})
    verdict, _ = audit(child, own_index, "me/parent")
    assert verdict.status is Status.FAIL
    assert "0 of 1 deciding coordinates of me/parent" in verdict.because


def test_without_an_entry_the_check_is_skipped_with_the_reason(parent: Path) -> None:
    verdict, match = audit(parent, None)
    assert (verdict.status, match) == (Status.SKIPPED, Match.NONE)
    assert "its files name no model on the hub" in verdict.because


def test_an_entry_that_there_is_not_is_told_before_the_model_is_opened(parent: Path) -> None:
    policy = Policy(models=(ModelPolicy(source=str(parent), index="huggyllama/lama-7b"),))
    with pytest.raises(PolicyError, match="write 'huggyllama/llama-7b'"):
        preflight(policy)


def test_the_record_carries_the_answer_so_that_it_is_judged_again_without_the_index(parent: Path) -> None:
    policy = Policy(models=(ModelPolicy(source=str(parent), id="it", index="huggyllama/llama-7b"),))
    evidence = run_model(policy, "it", [CHECK])
    assert evidence.location.weight_norm_prediction is not None
    again = type(evidence).model_validate_json(evidence.model_dump_json(by_alias=True), strict=True)
    assert again == evidence
    assert judge_result(again, policy, [CHECK])[0].status is Status.FAIL
