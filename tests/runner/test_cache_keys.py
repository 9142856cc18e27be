"""What was measured is remembered while nothing changes that it rests on, and not a moment longer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sw_audit.measure import arms as measuring
from sw_audit.policy.policy import Policy
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status
from sw_audit.runner import cache as caching
from sw_audit.runner.cache import NO_CACHE, Cache
from sw_audit.runner.cache_keys import describe_content, describe_policy, open_arm_cache
from sw_audit.runner.run import RECALLED, run_model
from sw_audit.specimen.shipped import specimen_path

CHECKS = ("super-weight-located", "prune-collapses")


def make_policy(source: Path | None = None, **more: Any) -> Policy:
    model = {"source": str(source or specimen_path()), "id": "m"}
    return Policy.model_validate({"model": [model], "corpus": {"windows": 8}, **more})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the specimen that can be changed."""
    return Path(shutil.copytree(specimen_path(), tmp_path / "copy"))


def ask(policy: Policy, cache: Cache, checks: Sequence[str] = CHECKS) -> Any:
    """Return the question, or `None`."""
    kept = open_arm_cache(policy, policy.models[0], checks, cache)
    return None if kept is NO_CACHE else kept.result


def measure(policy: Policy, cache: Cache | None, checks: Sequence[str] = CHECKS) -> ModelResult:
    found = run_model(policy, "m", checks, cache=cache)
    assert isinstance(found, ModelResult)
    return found


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms that are really measured, as they are."""
    names: list[str] = []
    real = measuring.run_arms

    def run(checkpoint: Any, arms: Any, *rest: Any, **more: Any) -> Any:
        names.extend(arm.name for arm in arms)
        return real(checkpoint, arms, *rest, **more)

    monkeypatch.setattr(measuring, "run_arms", run)
    return names


def test_a_second_run_gives_the_same_evidence_without_opening_the_model(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(make_policy(), cache)
    monkeypatch.setattr("sw_audit.runner.run.measure_model", lambda *_: pytest.fail("it was measured again"))
    again = measure(make_policy(), cache)
    assert again.notes == (*first.notes, RECALLED)
    assert again.model_copy(update={"notes": first.notes}) == first


def test_without_a_cache_nothing_is_remembered(measured: list[str]) -> None:
    for _ in range(2):
        assert RECALLED not in measure(make_policy(), None, CHECKS[:1]).notes
    assert measured == ["baseline", "baseline"]


def test_where_nothing_can_be_kept_the_run_goes_on_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    cache = Cache(tmp_path / "file")
    found = measure(make_policy(), cache, CHECKS[:1])
    assert found.measurements
    assert found.notes[-1].startswith("Nothing could be remembered for the next run: output folder ")


def test_a_check_more_measures_only_the_arms_that_are_new(cache: Cache, measured: list[str]) -> None:
    measure(make_policy(), cache, CHECKS[:1])
    measure(make_policy(), cache)
    assert measured == ["baseline", "baseline", "pruned", "flipped"]
    before = list(measured)
    measure(make_policy(), cache, CHECKS[:1])
    assert measured == before


def test_what_is_remembered_of_arms_is_what_was_measured(cache: Cache) -> None:
    plain = measure(make_policy(), None)
    measure(make_policy(), cache, CHECKS[:1])
    remembered = measure(make_policy(), cache)

    def bare(found: ModelResult) -> list[Measurement]:
        return [one.model_copy(update={"seconds": 0.0}) for one in found.measurements]

    assert bare(remembered) == bare(plain)


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(
    cache: Cache, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "ARMS_AT_ONCE", 1)

    def break_off(stage: str, done: int, _: int) -> None:
        if stage.startswith("measuring") and done and len(measured) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_model(make_policy(), "m", CHECKS, progress=break_off, cache=cache)
    assert measured == ["baseline", "pruned", "baseline", "flipped"]
    measured.clear()
    measure(make_policy(), cache)
    assert measured == ["baseline", "flipped"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md"])
def test_any_file_of_the_model_is_part_of_the_question_and_not_only_its_weights(
    cache: Cache, copy: Path, name: str
) -> None:
    before = ask(make_policy(copy), cache)
    with (copy / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    after = ask(make_policy(copy), cache)
    assert before is not None
    assert before != after


def test_one_bit_of_the_weights_is_part_of_the_question(cache: Cache, copy: Path) -> None:
    before = ask(make_policy(copy), cache)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert ask(make_policy(copy), cache) != before


def test_a_stripped_quantization_configuration_is_another_model_though_its_weights_are_the_same(
    cache: Cache, copy: Path
) -> None:
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}), encoding="utf-8")
    before = ask(make_policy(copy), cache)
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ask(make_policy(copy), cache) != before


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 1},
        {"corpus": {"windows": 9}},
        {"corpus": {"windows": 8, "stop_words": ["the"]}},
        {"prompts": ["hello"]},
        {"checks": {"super-activation-persists": {"examples": 3}}},
        {"checks": {"placebo-harmless": {"draws": 4}}},
        {"confirmation": {"enabled": False}},
        {"quantization": {"recipes": ["int4/64x64"]}},
    ],
    ids=lambda more: json.dumps(more)[:40],
)
def test_what_decides_a_measurement_is_part_of_the_question(cache: Cache, more: dict[str, Any]) -> None:
    assert ask(make_policy(**more), cache) != ask(make_policy(), cache)


@pytest.mark.parametrize(
    "more",
    [
        {"confidence": 0.8},
        {"inconclusive": "warn"},
        {"checks": {"prune-collapses": {"minimum_ratio": 2.0}}},
        {"checks": {"stopword-shift": {"enabled": False}}},
        {
            "waiver": [
                {"check": "prune-collapses", "model": "*", "until": "2030-01-01", "owner": "a", "reason": "b"}
            ]
        },
    ],
    ids=lambda more: json.dumps(more)[:40],
)
def test_how_measurements_are_judged_is_no_part_of_it(cache: Cache, more: dict[str, Any]) -> None:
    assert ask(make_policy(**more), cache) == ask(make_policy(), cache)


def test_beside_a_parent_limits_are_no_part_of_it_either() -> None:
    strict = make_policy(checks={"perplexity-ratio": {"maximum_ratio": 1.01}})
    for descends in (True, False):
        assert describe_policy(strict, descends=descends) == describe_policy(make_policy(), descends=descends)


def test_a_parent_and_its_files_are_part_of_the_question(cache: Cache, copy: Path) -> None:
    policy = Policy.model_validate({"model": [{"source": str(specimen_path()), "id": "m", "parent": str(copy)}]})
    before = ask(policy, cache)
    assert before is not None
    assert before["parent"]["content"] == before["content"]
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n", encoding="utf-8")
    after = ask(policy, cache)
    assert after["content"] == before["content"]
    assert after["parent"] != before["parent"]


def test_the_index_of_ones_own_counts_by_its_content(cache: Cache, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("sw-audit-index = 1\n", encoding="utf-8")
    policy = make_policy(index=str(own))
    before = ask(policy, cache)
    own.write_text("sw-audit-index = 1\n# more\n", encoding="utf-8")
    assert ask(policy, cache) != before


@pytest.mark.parametrize("change", [{"trust_remote_code": True}, {"source": "./nowhere"}])
def test_what_cannot_be_told_by_its_files_is_not_remembered(cache: Cache, change: dict[str, Any]) -> None:
    policy = make_policy()
    model = policy.models[0].model_copy(update=change)
    assert ask(policy.model_copy(update={"models": (model,)}), cache) is None


def test_an_adapter_rests_on_its_base_too(tmp_path: Path, copy: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(copy)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    before = describe_content(make_policy(adapter).models[0])
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n", encoding="utf-8")
    after = describe_content(make_policy(adapter).models[0])
    assert before is not None
    assert after is not None
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_another_program_remembers_nothing_of_this_one(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask(make_policy(), cache)
    monkeypatch.setattr("sw_audit.runner.cache_keys.digest_program", lambda: "other")
    assert ask(make_policy(), cache) != before


DESCENT_CHECKS = ("super-weight-retained", "perplexity-ratio")


def make_descent(source: Path, model_id: str = "m", **more: Any) -> Policy:
    model = {"source": str(source), "id": model_id, "parent": str(specimen_path())}
    return Policy.model_validate({"model": [model], "corpus": {"windows": 8}, "descent": {"modules": 0}, **more})


@pytest.mark.parametrize(
    ("more", "searched", "otherwise"),
    [
        ({"confidence": 0.8}, True, False),
        ({"critical": {"candidates": 7}}, True, True),
        ({"effort": "quick"}, True, True),
        ({"laws": "gate"}, False, False),
    ],
)
def test_what_decides_a_search_of_the_parent_is_part_of_the_question_about_it(
    more: dict[str, Any], searched: bool, otherwise: bool, cache: Cache, copy: Path
) -> None:
    def ask_of_parent(check: str, **changes: Any) -> Any:
        policy = make_descent(copy, **changes)
        return open_arm_cache(policy, policy.models[0], [check], cache).parent

    for check, matters in (("critical-scalars-retained", searched), ("perplexity-ratio", otherwise)):
        assert (ask_of_parent(check, **more) != ask_of_parent(check)) is matters
    assert ask_of_parent("critical-scalars-retained") != ask_of_parent("perplexity-ratio")


def test_questions_of_ones_own_count_by_their_content(cache: Cache, copy: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"kind": "refuse", "name": "a", "prompt": "b"}')
    policy = make_descent(copy, descent={"decisions": str(asked)})
    before = open_arm_cache(policy, policy.models[0], ["decisions-kept"], cache)
    asked.write_text('{"kind": "refuse", "name": "a", "prompt": "c"}')
    after = open_arm_cache(policy, policy.models[0], ["decisions-kept"], cache)
    assert before.parent != after.parent
    assert before.result != after.result


def test_what_is_found_out_about_a_parent_serves_every_descendant(
    cache: Cache, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_model(make_descent(copy), "m", DESCENT_CHECKS, cache=cache)
    assert isinstance(first, ModelResult)
    other = Path(shutil.copytree(copy, copy.with_name("other")))
    (other / "README.md").write_text("another\n", encoding="utf-8")
    monkeypatch.setattr("sw_audit.runner.pair.measure_parent", lambda *_, **__: pytest.fail("it was met again"))
    second = run_model(make_descent(other, "n"), "n", DESCENT_CHECKS, cache=cache)
    assert isinstance(second, ModelResult)
    assert first.descent is not None
    assert second.descent is not None
    assert second.descent.parent_location == first.descent.parent_location
    assert second.model.id == "n"


def test_a_descendant_whose_run_was_broken_off_goes_on_after_the_text_that_was_measured(
    cache: Cache, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run_model(make_descent(copy), "m", DESCENT_CHECKS)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sw_audit.runner.pair.judge_result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_model(make_descent(copy), "m", DESCENT_CHECKS, cache=cache)
    monkeypatch.setattr("sw_audit.runner.pair.compare_on_text", lambda *_, **__: pytest.fail("measured again"))
    again = run_model(make_descent(copy), "m", DESCENT_CHECKS, cache=cache)
    assert isinstance(plain, ModelResult)
    assert isinstance(again, ModelResult)
    assert plain.descent is not None
    assert again.descent is not None

    def bare(found: Any) -> Any:
        return [
            [one.model_copy(update={"seconds": 0.0}) for one in text.measurements] for text in found.descent.texts
        ]

    assert bare(again) == bare(plain)


def test_a_stricter_limit_measures_only_what_it_asks_to_put_back_and_that_once(
    cache: Cache, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audit(maximum: float) -> ModelResult:
        checks = {"perplexity-ratio": {"maximum_ratio": maximum}}
        policy = make_descent(copy, checks=checks, descent={"modules": 1})
        result = run_model(policy, "m", DESCENT_CHECKS, cache=cache)
        assert isinstance(result, ModelResult)
        return result

    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] *= 0.1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    loose = audit(100.0)
    monkeypatch.setattr("sw_audit.runner.pair.generate_continuations", lambda *_: pytest.fail("generated again"))
    strict = audit(0.5)
    assert loose.descent is not None
    assert strict.descent is not None
    assert loose.descent.recovery is None
    assert strict.descent.recovery is not None
    assert [verdict.status for verdict in strict.verdicts][-1] is Status.FAIL
    monkeypatch.setattr("sw_audit.runner.pair.rank_modules", lambda *_: pytest.fail("it was ranked again"))
    assert audit(0.5).descent == strict.descent
    assert audit(100.0).descent == loose.descent


@pytest.mark.parametrize(
    ("table", "matters"),
    [
        ({"placebo-harmless": {"draws": 4}}, True),
        ({"other-outliers-harmless": {"count": 7}}, True),
        ({"super-activation-persists": {"examples": 9}}, True),
        ({"placebo-harmless": {"maximum_ratio": 3.0}}, False),
        ({"layer-error": {"floor": -10.0}}, False),
        ({"prune-collapses": {"enabled": False}}, False),
    ],
)
def test_a_limit_is_in_the_question_where_it_decides_what_is_measured(
    table: dict[str, dict[str, object]], matters: bool
) -> None:
    changed = Policy.model_validate({"checks": table})
    assert (describe_policy(changed, descends=False) != describe_policy(Policy(), descends=False)) is matters
