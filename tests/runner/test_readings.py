"""What is foretold of readings, held against the readings of whole audits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.readings import count_readings

from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.checks.judging import list_checks
from sw_audit.policy.reading import overlay_policy, parse_policy
from sw_audit.runner.readings import list_readings
from sw_audit.runner.run import run_model
from sw_audit.specimen.shipped import specimen_path

LAST = "model.layers.5.mlp.down_proj.weight"


def make_policy(source: Path, **settings: Any) -> Any:
    return parse_policy(
        {"schema": 1, "corpus": {"source": "specimen"}, "model": [{"source": str(source), **settings}]}, "a test"
    )


@pytest.mark.slow
def test_what_is_foretold_of_a_model_by_itself_is_what_is_read() -> None:
    policy = make_policy(specimen_path())
    [model] = policy.models
    with count_readings() as readings:
        run_model(policy, model.id, [check.id for check in list_checks(policy)], checkpoint=open_streaming(model))
    foretold = list_readings(policy, model)
    # The largest weights are looked for in the files' matrices, which are not brought in for it.
    assert readings[LAST] + 1 == pytest.approx(sum(stage.model for stage in foretold), rel=0.05)
    assert sum(stage.model for stage in foretold if stage.certain) <= readings[LAST] + 1


@pytest.mark.slow
def test_what_is_foretold_of_a_model_beside_its_parent_is_what_is_read_of_both(tmp_path: Path) -> None:
    copy = shutil.copytree(specimen_path(), tmp_path / "copy")
    policy = make_policy(copy, parent=str(specimen_path()))
    [model] = policy.models
    checks = [check.id for check in list_checks(policy, model)]
    with count_readings() as readings:
        run_model(policy, model.id, checks, checkpoint=open_streaming(model))
    foretold = list_readings(policy, model)
    assert readings[LAST] == pytest.approx(sum(stage.model + stage.parent for stage in foretold), rel=0.15)
    assert sum(stage.model + stage.parent for stage in foretold if stage.certain) <= readings[LAST]


def test_stages_are_counted_as_the_policy_asks() -> None:
    policy = make_policy(specimen_path())
    [model] = policy.models

    def count(**tables: Any) -> dict[str, int]:
        changed = overlay_policy(policy, **tables)
        return {stage.stage: stage.model for stage in list_readings(changed, model)}

    plain = count()
    assert plain["generating"] == 144
    assert count(descent={"new_tokens": 5, "long_new_tokens": 7})["generating"] == 7
    # 50 prompts are tried at once, and the text's own before.
    assert plain["following super activations"] == 2
    assert count(checks={"super-activation-persists": {"examples": 120}})["following super activations"] == 4
    assert count(effort="thorough")["measuring"] == 1 < plain["measuring"]
    assert "taking layers apart" not in count(confirmation={"enabled": False})
