from __future__ import annotations

from pathlib import Path

import pytest
from support.bulky import HUNDRED_MEGABYTES, write_skeleton

from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.runner.forecast import forecast_reading

LAYERS = 12 * 2 * (768 * (2 * 768 + 2 * 128) + 3 * 768 * 2048 + 2 * 768)
OUTSIDE = 2 * (2 * 500 * 768 + 768)
MEBIBYTE = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_skeleton(tmp_path / "model", HUNDRED_MEGABYTES))


def test_bytes_are_the_layers_so_often_and_what_is_outside_once(source: str) -> None:
    model = ModelPolicy(source=source)
    forecast = forecast_reading(Policy(models=(model,), memory=200 * MEBIBYTE), model)
    assert forecast is not None
    least, most = forecast.count(most=False), forecast.count(most=True)
    assert least < most
    assert (forecast.least, forecast.most) == (least * LAYERS + OUTSIDE, most * LAYERS + OUTSIDE)


def test_what_is_in_memory_as_a_whole_is_not_read_again(source: str) -> None:
    model = ModelPolicy(source=source)
    forecast = forecast_reading(Policy(models=(model,), memory=1024 * MEBIBYTE), model)
    assert forecast is not None
    assert (forecast.streamed, forecast.least, forecast.most) == (False, 0, 0)


def test_a_parent_is_read_layer_by_layer_beside_a_model_that_is_there_as_a_whole(source: str) -> None:
    parent = write_skeleton(Path(source).parent / "parent", HUNDRED_MEGABYTES)
    model = ModelPolicy(source=source, parent=str(parent))
    forecast = forecast_reading(Policy(models=(model,), memory=1024 * MEBIBYTE), model)
    assert forecast is not None
    assert not forecast.streamed
    assert forecast.most == sum(stage.parent for stage in forecast.stages) * LAYERS + OUTSIDE
