"""A real trainer on the specimen: what is watched is logged, a run that loses it stops, and nothing is touched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.critical import NORM, make_scalar, make_search
from support.evidence import compose, make_evidence, make_location
from support.tuning import make_trainer, read_super_weight
from transformers import TrainerCallback

from sw_audit.checks.critical_scalars_unmoved import CriticalScalarsUnmovedLimits
from sw_audit.checks.super_weight_unmoved import SuperWeightUnmovedLimits
from sw_audit.errors import CheckpointError, InputError, RecordError
from sw_audit.record.location import Outcome
from sw_audit.record.store import keep_baseline
from sw_audit.training import Reading, SuperWeightWatch

WEIGHT = "super_weight/layer1[5,7]"
LOUD = "super_activation/channel5"
HALVING = {"steps": 40, "decay": 172.0}  # (1 - 1e-4 * 172) ** 40 = 0.4997


@pytest.mark.parametrize(
    ("every", "steps", "logged_steps"), [(1, range(6), [1, 2, 3, 4, 5]), (2, [0, 2, 4, 5], [0, 2, None, 4, None])]
)
def test_readings_are_taken_before_every_n_steps_and_last_and_are_in_what_the_trainer_logs(
    every: int, steps: Sequence[int], logged_steps: list[int | None], tmp_path: Path
) -> None:
    logged: list[dict[str, Any]] = []

    class Note(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:  # noqa: ARG002
            logged.append(dict(logs))

    watch = SuperWeightWatch(every=every)
    trainer = make_trainer(tmp_path, steps=5, callbacks=[watch, Note()], logging_steps=1)
    first = read_super_weight(trainer.model)
    trainer.train()
    figures = {reading.step: reading.figures() for reading in watch.readings}
    assert list(figures) == list(steps)
    last = figures[5]
    assert figures[0][WEIGHT] == first == pytest.approx(3.241, abs=1e-3)
    assert last[WEIGHT] == read_super_weight(trainer.model)
    assert last[f"{WEIGHT}/drift"] == pytest.approx((last[WEIGHT] - first) / first)
    assert last[f"{LOUD}/ratio"] == pytest.approx(last[LOUD] / figures[0][LOUD])
    assert 0 < abs(last[f"{WEIGHT}/drift"]) < 0.01
    assert watch.stopped is None
    assert all(reading.failed is None for reading in watch.readings)
    values = {step: of_step[WEIGHT] for step, of_step in figures.items()}
    assert {entry["step"]: entry[WEIGHT] for entry in trainer.state.log_history if WEIGHT in entry} == values
    # What was read last since the last log goes into the next one.
    logged_values = [logs.get(WEIGHT) for logs in logged if "loss" in logs]
    assert logged_values == [None if step is None else values[step] for step in logged_steps]


def test_a_run_that_loses_the_super_weight_is_stopped_at_the_step_where_it_passes_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = SuperWeightWatch(every=2, stop=True, weights=SuperWeightUnmovedLimits(maximum_drift=0.1))
    trainer = make_trainer(tmp_path, callbacks=[watch], **HALVING)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, logger="sw_audit.training"):
        trainer.train()
    # 1 - (1 - 0.0172) ** n is 0.099 after 6 steps and 0.1296 after 8, but for what gradients add.
    assert trainer.state.global_step in (6, 8)
    assert watch.stopped.startswith(f"step {trainer.state.global_step}: layer 1 [5, 7] was 3.241 and is")
    assert watch.stopped in caplog.text


def test_a_run_that_is_only_watched_goes_on_and_says_so(tmp_path: Path) -> None:
    watch = SuperWeightWatch(every=4, weights=SuperWeightUnmovedLimits(maximum_drift=0.01))
    trainer = make_trainer(tmp_path, callbacks=[watch], steps=8, decay=172.0)
    trainer.train()
    assert trainer.state.global_step == 8
    assert watch.stopped is None
    assert watch.readings[-1].failed is not None


def test_watching_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    alone, watched = (
        make_trainer(tmp_path, steps=4, callbacks=watching) for watching in ((), (SuperWeightWatch(every=1),))
    )
    for trainer in (alone, watched):
        torch.manual_seed(1)
        trainer.train()
    for mine, theirs in zip(alone.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_without_a_tokenizer_there_is_no_prompt_to_read_on(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1, callbacks=[SuperWeightWatch()])
    trainer.callback_handler.processing_class = None
    with pytest.raises(InputError, match="give the Trainer its tokenizer"):
        trainer.train()


def test_what_is_watched_can_come_from_a_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read: list[Reading] = []
    first = SuperWeightWatch()
    trainer = make_trainer(tmp_path, steps=1, callbacks=[first])
    trainer.train()
    made_up = make_evidence("before")
    located = first.readings[0].weights[0]
    weight = made_up.location.super_weights[0].model_copy(
        update={**located.address.model_dump(), "layer": located.layer, "value": 2 * located.before}
    )
    location = made_up.location.model_copy(update={"super_weights": (weight,), "super_activations": ()})
    keep_baseline("before", compose(made_up.model_copy(update={"location": location})))
    watch = SuperWeightWatch(every=1, baseline="before", report=read.append)
    make_trainer(tmp_path, steps=1, callbacks=[watch]).train()
    assert read == watch.readings
    assert read[0].weights[0].drift == pytest.approx(-0.5)
    with pytest.raises(RecordError, match="did you mean 'before'"):
        SuperWeightWatch(baseline="befor")


def test_critical_scalars_that_a_baseline_knows_are_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gain = make_scalar(NORM, 5, value=1.0)
    known = make_evidence("m", location=make_location(Outcome.NONE), critical=None)
    keep_baseline("before", compose(known.model_copy(update={"critical": make_search(gain)})))
    watch = SuperWeightWatch(every=1, stop=True, baseline="before")
    trainer = make_trainer(tmp_path, steps=2, callbacks=[watch])
    with torch.no_grad():
        trainer.model.model.norm.weight[5] = 0.5
    trainer.train()
    # It is half of what it was, which is too far: the run ends after its first step.
    name = f"critical_scalar/{NORM}[5]"
    assert watch.readings[0].figures() == {name: 0.5, f"{name}/drift": -0.5}
    assert (watch.stopped or "").startswith(f"step 0: {NORM}[5] was 1 and is 0.5, -50 percent off")
    assert trainer.state.global_step == 1
    far = SuperWeightWatch(every=1, baseline="before", scalars=CriticalScalarsUnmovedLimits(maximum_drift=0.6))
    trainer = make_trainer(tmp_path, steps=1, callbacks=[far])
    with torch.no_grad():
        trainer.model.model.norm.weight[5] = 0.5
    trainer.train()
    assert all(reading.failed is None for reading in far.readings)
    keep_baseline("nothing", compose(known))
    with pytest.raises(CheckpointError, match="no super weight to watch, and no other critical scalar"):
        SuperWeightWatch(baseline="nothing")


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, "specimen"])
def test_critical_scalars_are_searched_for_when_training_begins(text: str | None, tmp_path: Path) -> None:
    watch = SuperWeightWatch(every=1, critical=True, text=text)
    trainers = [make_trainer(tmp_path, steps=2, callbacks=watching) for watching in ((), (watch,))]
    for trainer in trainers:
        torch.manual_seed(1)
        trainer.train()
    # After the super weight this entry of an embedding costs most; the super weight is told under its own name.
    name = "critical_scalar/model.embed_tokens.weight[0,39]"
    for figures in (reading.figures() for reading in watch.readings):
        assert {name, WEIGHT} <= set(figures)
        assert "critical_scalar/model.layers.1.mlp.down_proj.weight[5,7]" not in figures
    for mine, theirs in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert torch.equal(mine, theirs)


def test_less_than_one_step_is_refused() -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        SuperWeightWatch(every=0)
