"""A fine-tune of the specimen beside its record: a few real steps pass, one that halved its super weight fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tuning import make_trainer, read_super_weight, save

from sw_audit.checks.judging import judge_result
from sw_audit.cli.diff import compare_quality
from sw_audit.policy.policy import Policy
from sw_audit.record.record import Record
from sw_audit.record.store import decode_record, encode_record, keep_baseline
from sw_audit.record.verdict import Status, Verdict
from sw_audit.runner.diff import compare_records
from sw_audit.runner.run import run
from sw_audit.specimen.shipped import control_path, specimen_path

CHECKS = ("super-weight-unmoved", "super-activation-unmoved", "quality-not-worse")


def audit(source: Path, *, saved: bool = False, **more: Any) -> Record:
    """Audit by the three checks, on a short text."""
    policy = {"model": [{"source": str(source)}], "corpus": {"windows": 24}, "expect": "any", **more}
    return run(Policy.model_validate(policy), checks=CHECKS, saved=saved)


def judged(record: Record) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in record.verdicts}


def statuses(record: Record) -> list[Status]:
    return [judged(record)[check].status for check in CHECKS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def before(home: Path) -> Record:
    """The specimen's own record, kept as the baseline `before`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        record = audit(specimen_path(), saved=True)
        keep_baseline("before", record)
    return record


@pytest.fixture(autouse=True)
def _at_home(home: Path, before: Record, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - it is kept
    monkeypatch.chdir(home)


def tune(home: Path, name: str, **more: Any) -> Path:
    trainer = make_trainer(home, **more)
    trainer.train()
    assert read_super_weight(trainer.model) != 0
    return save(trainer, home / name)


def test_the_model_itself_is_unmoved_to_the_last_bit(before: Record) -> None:
    again = audit(specimen_path(), compare="before")
    assert statuses(again) == [Status.PASS] * 3
    assert [judged(again)[check].observed for check in CHECKS] == [0.0, 1.0, 1.0]
    assert compare_records(before, again)[-3:][0].before is None  # only the new checks differ
    assert compare_quality(before, again, "before") == []


def test_a_few_real_optimizer_steps_pass_and_moved_something(home: Path, before: Record) -> None:
    found = audit(tune(home, "tuned", steps=4), compare="before")
    assert statuses(found) == [Status.PASS] * 3
    drift = judged(found)["super-weight-unmoved"].observed
    assert drift is not None
    assert 0 < drift < 0.001
    changed = {change.what: change for change in compare_records(before, found)}
    assert changed["weights"].before != changed["weights"].after
    assert not any(change.worse for change in changed.values())


def test_one_trained_until_the_super_weight_has_halved_fails(home: Path, before: Record) -> None:
    # (1 - 1e-4 * 670) ** 10 = 0.4998 of it is left, but for what gradients add.
    folder = tune(home, "halved", steps=10, decay=670.0)
    found = audit(folder, compare="before")
    verdict = judged(found)["super-weight-unmoved"]
    assert verdict.status is Status.FAIL
    assert verdict.observed == pytest.approx(0.5, abs=0.01)
    assert "layer 1 [5, 7] was 3.241 and is 1.62" in verdict.because
    assert verdict.remedy is not None
    assert "SuperWeightWatch" in verdict.remedy
    assert judged(found)["super-activation-unmoved"].status is Status.FAIL
    worse = [change.what for change in compare_records(before, found) if change.worse]
    assert "super weight layer 1 [5, 7]" in worse


def test_verdicts_on_a_baseline_can_be_had_again_from_the_written_record(home: Path) -> None:
    found = audit(specimen_path(), compare="before")
    again = decode_record(encode_record(found))
    assert again.find_model("specimen").baseline.name == "before"
    assert judge_result(again.find_model("specimen"), again.policy, CHECKS) == found.verdicts
    assert (home / ".sw-audit/baselines/before.json").is_file()


def test_another_text_leaves_quality_in_doubt_and_the_weights_judged() -> None:
    found = audit(specimen_path(), compare="before", seed=3)
    assert statuses(found) == [Status.PASS, Status.PASS, Status.INCONCLUSIVE]
    assert "seed 0 then, 3 now" in judged(found)["quality-not-worse"].because


def test_a_model_that_never_had_it_fails_and_is_told_apart() -> None:
    found = audit(control_path(), compare="before")
    assert judged(found)["super-weight-unmoved"].status is Status.FAIL
    assert judged(found)["super-activation-unmoved"].status is Status.FAIL
