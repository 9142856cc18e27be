"""A file that changes while a model is audited: nothing of it passes, and nothing of it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sw_audit.checkpoint.digest import FileState
from sw_audit.checks.explain import INCONCLUSIVE, conclude
from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.record.verdict import Status
from sw_audit.runner import watching
from sw_audit.runner.cache import STAGED, Cache
from sw_audit.runner.pair import Parents
from sw_audit.runner.run import RECALLED, compose_record, run, run_model
from sw_audit.runner.watching import WatchedFiles, look_at_model
from sw_audit.specimen.shipped import specimen_path
from sw_audit.stopping import StoppedError

CHECKS = ("super-weight-retained", "weights-intact")
RIGHT = {"super-weight-retained": Status.FAIL, "weights-intact": Status.PASS}
LOCATED = ("super-weight-located",)
SUPER_WEIGHT = ("model.layers.1.mlp.down_proj.weight", 5, 7)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the specimen that can be changed."""
    return Path(shutil.copytree(specimen_path(), tmp_path / "copy"))


@pytest.fixture
def broken(copy: Path) -> bytes:
    """The weights of the copy without its super weight."""
    weights = load_file(copy / "model.safetensors")
    name, row, column = SUPER_WEIGHT
    weights[name][row, column] = 0.0
    save_file(weights, copy.parent / "broken.safetensors", metadata={"format": "pt"})
    return (copy.parent / "broken.safetensors").read_bytes()


def make_policy(source: Path, **more: Any) -> Policy:
    model = {"source": str(source), "id": "m", "parent": str(specimen_path())}
    return Policy.model_validate({"model": [model], "corpus": {"windows": 8}, "descent": {"modules": 0}, **more})


def at_stage(stage: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Return a progress that does something once, when a stage begins."""
    left = [act]

    def tell(told: str, _done: int, _total: int) -> None:
        if told.startswith(stage) and left:
            left.pop()()

    return tell


def assert_nothing_passes(found: ModelResult | ModelFailure, name: str) -> None:
    assert isinstance(found, ModelFailure)
    assert found.stopped is not None
    assert found.stopped.endswith(f"{name} changed while it was audited")
    assert {verdict.status for verdict in found.verdicts} == {Status.INCONCLUSIVE}


@pytest.mark.parametrize("stage", ["opening the parent", "opening", "measuring"])
def test_good_weights_put_in_place_of_broken_ones_meanwhile_pass_nothing_then_or_later(
    copy: Path, broken: bytes, tmp_path: Path, stage: str
) -> None:
    weights, cache, policy = copy / "model.safetensors", Cache(tmp_path / "cache"), make_policy(copy)
    good = weights.read_bytes()
    weights.write_bytes(broken)
    swap = at_stage(stage, lambda: weights.write_bytes(good))
    found = run_model(policy, "m", CHECKS, progress=swap, cache=cache)
    assert_nothing_passes(found, "model.safetensors")
    assert conclude([compose_record([found], policy)]) == INCONCLUSIVE
    # What was found of the parent before anything changed is kept, and nothing else.
    kept = {path.relative_to(cache.folder).parts[0] for path in cache.folder.rglob("*.json")}
    assert kept == ({"parent"} if stage == "measuring" else set())
    weights.write_bytes(broken)
    after = run_model(policy, "m", CHECKS, cache=cache)
    assert isinstance(after, ModelResult)
    assert RECALLED not in after.notes
    assert {verdict.check: verdict.status for verdict in after.verdicts} == RIGHT


def test_a_run_killed_after_the_change_leaves_nothing_that_the_next_one_believes(
    copy: Path, broken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, cache, policy = copy / "model.safetensors", Cache(tmp_path / "cache"), make_policy(copy)
    good = weights.read_bytes()
    weights.write_bytes(broken)

    def kill() -> None:
        raise KeyboardInterrupt

    def swap_then_kill(stage: str, done: int, total: int) -> None:
        if stage == "opening":  # after the parent
            weights.write_bytes(good)
        at_stage("measuring", kill)(stage, done, total)

    monkeypatch.setattr(watching, "_EVERY", 3600.0)
    with pytest.raises(KeyboardInterrupt):
        run_model(policy, "m", CHECKS, progress=swap_then_kill, cache=cache)
    assert list((cache.folder / STAGED).rglob("*.json"))
    weights.write_bytes(broken)
    after = run_model(policy, "m", CHECKS, cache=cache)
    assert {verdict.check: verdict.status for verdict in after.verdicts} == RIGHT


def test_weights_that_were_put_back_before_the_end_are_a_change_too(copy: Path, tmp_path: Path) -> None:
    weights, kept = copy / "model.safetensors", tmp_path / "kept"

    def swap_and_swap_back() -> None:
        good = weights.read_bytes()
        weights.rename(kept)
        weights.write_bytes(good)
        weights.unlink()
        kept.rename(weights)

    found = run_model(make_policy(copy), "m", CHECKS, progress=at_stage("locating", swap_and_swap_back))
    assert_nothing_passes(found, "model.safetensors")


def test_a_change_ends_the_work_at_the_next_look(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_EVERY", 0.0)
    policy = make_policy(copy)
    told: list[str] = []
    progress = WatchedFiles(policy, policy.models[0]).watch(lambda stage, *_: told.append(stage))
    progress("opening", 0, 1)
    (copy / "config.json").touch()
    with pytest.raises(StoppedError, match=r"config\.json changed while it was audited"):
        progress("measuring", 0, 1)
    assert told == ["opening"]


def test_a_file_whose_state_proves_nothing_is_told_by_its_content(
    copy: Path, broken: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "read_state", lambda _: FileState(1, 2, 3, 4, 5 * 10**9, 1))
    policy = make_policy(copy)
    watched = WatchedFiles(policy, policy.models[0])
    assert watched.find_change() is None
    (copy / "model.safetensors").write_bytes(broken)
    assert str(watched.find_change()).endswith("model.safetensors changed while it was audited")


FILES = {
    "parent": "parent/config.json",
    "base": "base/model.safetensors",
    "text": "text.txt",
    "questions": "choices.jsonl",
    "another text": "more.txt",
    "index": "own.toml",
    "manifest": "sums.txt",
    "baseline": ".sw-audit/baselines/before.json",
    "tasks": "tasks/it.yaml",
    "decisions": "decisions.jsonl",
    "a chat template of another name": "copy/additional_chat_templates/rag.jinja",
    "a file that comes": "copy/new.json",
}


@pytest.mark.parametrize("what", FILES)
def test_every_file_that_an_audit_rests_on_is_watched(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(copy, "parent")
    shutil.copytree(copy, "base")
    Path("adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "base"}
    Path("adapter/adapter_config.json").write_text(json.dumps(settings))
    for name in (*FILES.values(), "unrelated.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if what != "a file that comes" or not name.endswith("new.json"):
            Path(name).touch()
    text = {"source": "text.txt", "choices": "choices.jsonl"}
    descent = {"texts": [{"source": "more.txt"}], "lm_eval_path": "tasks", "decisions": "decisions.jsonl"}
    model = {"source": "copy", "parent": "parent", "adapter": "adapter", "manifest": "sums.txt"}
    policy = Policy.model_validate(
        {"model": [model], "corpus": text, "descent": descent, "index": "own.toml", "compare": "before"}
    )
    watched = WatchedFiles(policy, policy.models[0])
    Path("unrelated.txt").write_text("changed")
    assert watched.find_change() is None
    with Path(FILES[what]).open("a") as file:
        file.write("\n")
    assert str(watched.find_change()) == f"{tmp_path / FILES[what]} changed while it was audited"


def test_a_parent_that_changed_after_it_was_opened_is_opened_again(copy: Path) -> None:
    parents, policy = Parents(), make_policy(copy)
    state = look_at_model(policy.models[0])
    parents.let_go_unless(state)
    opened = parents.open(policy.models[0])[0]
    parents.let_go_unless(look_at_model(policy.models[0]))
    assert parents.open(policy.models[0])[0] is opened
    (copy / "README.md").touch()
    assert look_at_model(policy.models[0]) != state
    parents.let_go_unless(look_at_model(policy.models[0]))
    assert parents.open(policy.models[0])[0] is not opened


def test_without_a_cache_a_change_is_seen_too_and_a_run_of_several_models_goes_on(copy: Path) -> None:
    models = [{"source": str(copy), "id": "m"}, {"source": str(specimen_path()), "id": "n"}]
    policy = Policy.model_validate({"model": models, "corpus": {"windows": 8}})
    touch = at_stage("locating", (copy / "config.json").touch)
    record = run(policy, checks=LOCATED, progress=touch)
    assert [type(model) for model in record.models] == [ModelFailure, ModelResult]
    assert_nothing_passes(record.models[0], "config.json")


def test_a_model_that_nobody_touches_is_kept_for_good(copy: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for recalled in (False, True):
        found = run_model(make_policy(copy), "m", CHECKS, cache=cache)
        assert isinstance(found, ModelResult)
        assert (RECALLED in found.notes) is recalled
    assert not (cache.folder / STAGED).exists()


def test_a_link_that_is_made_to_a_file_changes_nothing_of_it(copy: Path, tmp_path: Path) -> None:
    weights = copy / "model.safetensors"
    watched = WatchedFiles(make_policy(copy), make_policy(copy).models[0])
    (tmp_path / "link").hardlink_to(weights)
    assert watched.find_change() is None
    weights.touch()
    assert watched.find_change() == f"{weights} changed while it was audited"
