from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.evidence import (
    make_evidence,
    make_none_evidence,
    make_policy,
)
from support.new_check import EIGHT_LAYERS, install_check

from sw_audit.checks.judging import judge_result, list_checks
from sw_audit.checks.registry import find_checks
from sw_audit.errors import PolicyError
from sw_audit.record.verdict import Status

BUILT_IN = [check.id for check in find_checks().values() if check.is_about("model")]


@pytest.fixture(autouse=True)
def forget_checks() -> Iterator[None]:
    """Let every test find the checks anew."""
    find_checks.cache_clear()
    yield
    find_checks.cache_clear()


def test_every_check_says_everything_about_itself_and_has_a_file_and_a_test_file_of_its_name() -> None:
    assert len(find_checks()) == 44
    for name, check in find_checks().items():
        assert check.id == name
        assert check.rule.__module__ == f"sw_audit.checks.{name.replace('-', '_')}"
        assert check.limits.__module__ == check.rule.__module__
        assert (Path(__file__).parent / f"test_{name.replace('-', '_')}.py").is_file()
        assert all((check.title, check.meaning, check.quantity, check.fails))
        assert check.side is not None or name == "stopword-shift"
    assert len({check.order for check in find_checks().values()}) == len(find_checks())


def test_another_package_brings_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_check(tmp_path, monkeypatch)
    verdicts = judge_result(make_evidence(), make_policy())
    assert [one.check for one in verdicts] == [*BUILT_IN, EIGHT_LAYERS]
    assert verdicts[-1].status is Status.PASS
    assert list_checks(make_policy())[-1].id == EIGHT_LAYERS
    assert [one.check for one in judge_result(make_evidence(), make_policy(), [EIGHT_LAYERS])] == [EIGHT_LAYERS]


def test_an_extra_check_that_needs_a_super_weight_is_skipped_like_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_check(tmp_path, monkeypatch, needs=True)
    (verdict,) = judge_result(make_none_evidence(), make_policy(), [EIGHT_LAYERS])
    assert verdict.status is Status.SKIPPED


@pytest.mark.parametrize(
    ("target", "words"),
    [("taken", "this id is taken"), ("NO_CHECK", "is a int"), ("MISSING", "cannot be loaded")],
)
def test_an_extra_check_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str
) -> None:
    install_check(tmp_path, monkeypatch, target)
    with pytest.raises(PolicyError, match=words) as caught:
        find_checks()
    assert "\n" not in str(caught.value)


def test_the_side_that_a_check_calls_good_is_the_side_on_which_real_models_passed() -> None:
    both = {"super-activation-retained", "stopword-shift"}  # a limit on either side
    seen = set()
    for file in (Path(__file__).parents[1] / "golden" / "data").glob("verdicts-*.json"):
        for key, verdict in json.loads(file.read_text(encoding="utf-8"))["figures"].items():
            check = find_checks()[key.rpartition(" ")[2]]
            if None in (verdict["observed"], verdict["limit"]) or check.id in both:
                continue
            within = (
                verdict["observed"] >= verdict["limit"]
                if check.side == "at least"
                else verdict["observed"] <= verdict["limit"]
            )
            assert within == (verdict["status"] == "pass"), (file.name, key)
            seen.add(check.id)
    assert len(seen) >= 22


def test_what_changes_or_watches_a_model_cannot_be_asked_of_an_engine() -> None:
    outside = {check.id for check in find_checks().values() if not check.looks_inside}
    gates = {"perplexity-ratio", "kl-divergence", "top1-agreement", "generation-sane", "engine-agrees"}
    assert gates | {"settings-as-parent", "tensors-in-place", "super-weight-retained"} <= outside
    inside = {"prune-collapses", "restored-activation-heals", "layer-error", "task-accuracy", "stopword-shift"}
    assert not inside & outside
