"""A super activation that is made twice: what came before, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from support.planted import Planted, build_llama, plant_, wrap_model
from torch import Tensor

from sw_audit.locate.locator import locate_super_weights
from sw_audit.locate.probe import Probe
from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.locate.stages import find_earlier_stages, find_end
from sw_audit.record.location import Stage, SuperActivation
from sw_audit.testing.families import Numerals

CHANNEL, HIDDEN = 3, 48


def follow(*values: float, first: int, last: int) -> tuple[SuperActivation, tuple[Stage, ...]]:
    """Follow a channel through layers that hold these values of it, and 1 in every other channel."""
    residual = torch.ones(len(values), 1, HIDDEN)
    residual[:, 0, CHANNEL] = torch.tensor(values)
    probe = Probe(torch.ones(1, HIDDEN), residual, (), len(values), (), ())
    held = SuperActivation(channel=CHANNEL, token=0, value=values[first], first_layer=first, last_layer=last)
    settings = DEFAULT_SETTINGS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sw_audit.locate.stages.measure_contributions", _add_nothing)
        return find_end(probe, held, settings), find_earlier_stages(None, probe, (held,), settings)  # type: ignore[arg-type]


def read_end(held: SuperActivation) -> tuple[object, ...]:
    gone = held.taken_down
    assert gone is not None
    return gone.first_layer, gone.last_layer, gone.left


def _add_nothing(_: object, probes: list[Probe], __: object) -> list[Tensor]:
    """Ask no layer what it adds: what makes a stage is tested on a model."""
    return [torch.zeros_like(probe.residual) for probe in probes]


def test_a_channel_that_is_made_taken_down_and_made_again_has_two_stages() -> None:
    held, [stage] = follow(30, 290, 769, 766, 734, 602, 41, 29, 24_926, 24_800, 10_231, 4_427, first=8, last=9)
    # 290 is less than half of 769, 602 is more; 602 is less than nine tenths, 41 less than a tenth.
    assert (stage.channel, stage.token, stage.first_layer, stage.last_layer) == (CHANNEL, 0, 2, 5)
    assert stage.value == 734  # the lower of the middle two
    assert read_end(stage) == (5, 6, pytest.approx(41 / 769))
    assert read_end(held) == (10, 11, pytest.approx(4_427 / 24_926))


def test_a_channel_that_only_grows_has_one_stage_and_what_stays_to_the_end_is_not_taken_down() -> None:
    held, stages = follow(30, 290, 769, 24_926, 24_900, 24_000, 20_000, first=3, last=6)
    assert stages == ()
    assert held.taken_down is None


def test_what_is_there_in_one_layer_is_no_stage_and_neither_is_what_does_not_stand_out() -> None:
    assert follow(1, 500, 1, 1, 24_926, 24_900, first=4, last=5)[1] == ()
    assert follow(1, 7, 7, 0, 24_926, 24_900, first=4, last=5)[1] == ()
    assert len(follow(1, 9, 9, 0, 24_926, 24_900, first=4, last=5)[1]) == 1


def test_what_half_remains_of_is_no_earlier_stage() -> None:
    assert follow(1, 500, 500, 240, 24_926, 24_900, first=4, last=5)[1] == ()
    assert follow(1, 500, 500, 49, 24_926, 24_900, first=4, last=5)[1] != ()


def test_a_sign_that_changes_ends_a_stage() -> None:
    _, [stage] = follow(1, -500, -500, 40, 24_926, 24_900, first=4, last=5)
    assert (stage.value, stage.first_layer, stage.last_layer) == (-500, 1, 2)
    assert read_end(stage) == (3, 3, pytest.approx(-40 / 500))


def test_the_scalar_that_makes_the_earlier_stage_is_told_and_the_set_stays_that_of_the_later() -> None:
    checkpoint = wrap_model(build_llama(layers=8), Numerals())
    for layer, column, spike in ((0, 9, 60.0), (2, 17, -59.0), (3, 30, 900.0)):
        plant_(checkpoint, Planted(layer, CHANNEL, column), spike=spike)
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert [(weight.layer, weight.row, weight.column) for weight in location.super_weights] == [(3, CHANNEL, 30)]
    [stage] = location.earlier_stages
    assert (stage.channel, stage.token, stage.first_layer, stage.last_layer) == (CHANNEL, 0, 0, 1)
    assert stage.value == pytest.approx(60, rel=0.05)
    assert read_end(stage)[:2] == (2, 2)
    [cause] = stage.causes
    assert (cause.layer, cause.row, cause.column) == (0, CHANNEL, 9)
    assert cause.share == pytest.approx(1, abs=0.05)


def test_a_super_activation_that_is_made_once_has_no_earlier_stage() -> None:
    checkpoint = wrap_model(build_llama(layers=8), Numerals())
    plant_(checkpoint, Planted(1, CHANNEL, 9))
    location = locate_super_weights(checkpoint, "5 7 11 13 5 9")
    assert len(location.super_weights) == 1
    assert location.earlier_stages == ()
