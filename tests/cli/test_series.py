"""`sw-audit audit --watch`: checkpoints as a training run writes them, each audited once it is whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fake_runner import CHECKS
from support.program import COMMAND, Program, heed_interrupts
from support.series import SHARDS, write_fading, write_member

from sw_audit.cli import series
from sw_audit.record.record import ModelFailure
from sw_audit.record.store import read_record
from sw_audit.runner import awaiting, run


@pytest.fixture
def steps(quick: Program, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What a training run does, one step each time that nothing is to be audited; time does not pass besides."""
    todo: list[Callable[[], object]] = []
    clock = [0.0]

    def sleep(_seconds: float) -> None:
        if todo:
            todo.pop(0)()
        clock[0] += 100

    class Clock:
        monotonic = staticmethod(lambda: clock[0])

    Clock.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
    monkeypatch.setattr(series, "time", Clock)
    (quick.folder / "run").mkdir()
    return todo


def list_measured() -> list[str]:
    lines = Path(os.environ["STANDIN_NOTES"]).read_text(encoding="utf-8").splitlines()
    return [line.split()[1] for line in lines]


def list_models(program: Program) -> list[str]:
    return [model.id for model in program.record().models]


def test_each_checkpoint_is_printed_and_on_record_once_it_is_whole(quick: Program, steps: list) -> None:
    half = quick.folder / "run/llama-500"
    seen: list[list[str]] = []
    steps += [
        lambda: write_member(half, shards=1),
        lambda: write_member(quick.folder / "run/llama-1000"),
        lambda: None,
        lambda: (seen.append(list_models(quick)), write_member(half)),
    ]
    ending = quick.run("audit", "--watch=run", "--idle=99s", "-q")
    assert (ending.code, seen) == (0, [["llama-1000"]])
    passed = f"PASSED: {CHECKS} pass"
    assert ending.out.splitlines() == [
        f"llama-1000: {passed}",
        f"llama-500: {passed}",
        f"2 checkpoints: PASSED: {2 * CHECKS} pass",
    ]
    assert ending.complaints == [
        f"sw-audit: llama-500 is not whole, and waits: shard {SHARDS[1]} is missing",
        "sw-audit: nothing new came into run for 1 min 39 s",
    ]
    assert list_models(quick) == ["llama-500", "llama-1000"]
    assert [file for file in quick.files() if file.startswith("sw-audit-out")] == [
        f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")
    ]


def test_the_forms_hold_all_checkpoints_and_the_jobs_summary_is_appended_to_once(
    quick: Program, steps: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(quick.folder / "summary.md"))
    for name in ("llama-1", "llama-2"):
        write_member(quick.folder / f"run/{name}")
    quick.run("audit", "--watch=run", "--idle=1s", "--text=x.txt", "--summary")
    assert steps == []
    assert (quick.folder / "x.txt").read_text() == "<title>llama-1, llama-2 as text</title>"
    assert (quick.folder / "summary.md").read_text() == "<title>llama-1, llama-2 as markdown</title>\n"


def test_a_second_run_measures_nothing_again_and_one_that_fails_ends_with_1(quick: Program, steps: list) -> None:
    for name in ("broken-1", "broken-2"):
        write_member(quick.folder / f"run/{name}")
    for _ in range(2):
        ending = quick.run("audit", "--watch=run", "--idle=1s")
        assert ending.code == 1
        assert "FAIL broken-2 prune-collapses" in ending.out
    assert steps == []
    assert list_measured() == ["broken-1", "broken-2"]


def test_the_policys_one_model_says_what_every_checkpoint_is(
    quick: Program, steps: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "SETTLED", 150)  # longer than it may be idle
    write_member(quick.folder / "run/llama-1")
    (quick.folder / "one.swaudit.toml").write_text(
        'seed = 3\n[[model]]\nsource = "run"\nexpect = "some"\nbos = "never"\n[[waiver]]\nmodel = "llama-1"\n'
        'check = "generation-sane"\nuntil = 2000-01-01\nowner = "Ada"\nreason = "none"\n'
    )
    assert quick.run("audit", "one.swaudit.toml", "--watch=run", "--idle=1s", "--no-report").code == 0
    [model], policy = quick.policy()["model"], quick.policy()
    assert (model["id"], model["source"], model["expect"], model["bos"], policy["seed"]) == (
        "llama-1", "run/llama-1", "some", "never", 3,
    )  # fmt: skip
    assert steps == []


def test_a_checkpoint_that_stays_incomplete_makes_the_run_incomplete(quick: Program, steps: list) -> None:
    write_member(quick.folder / "run/llama-1")
    write_member(quick.folder / "run/llama-2", shards=1)
    ending = quick.run("audit", "--watch=run", "--idle=1s", "-q")
    assert (ending.code, list_models(quick)) == (2, ["llama-1"])
    assert ending.complaints[-1] == f"sw-audit: llama-2 is not whole: shard {SHARDS[1]} is missing"
    assert ending.out.splitlines()[-1] == f"1 checkpoint: NOT COMPLETE: {CHECKS} pass"
    assert steps == []


def test_a_folder_that_vanishes_is_one_line_ends_with_2_and_keeps_what_was_audited(
    quick: Program, steps: list
) -> None:
    write_member(quick.folder / "run/llama-1")
    steps += [lambda: None, lambda: shutil.rmtree(quick.folder / "run")]
    ending = quick.run("audit", "--watch=run", "-q")
    assert (ending.code, list_models(quick)) == (2, ["llama-1"])
    assert ending.complaints == [
        "sw-audit: folder 'run': there is no such folder; give the folder that a training run writes its "
        "checkpoints into"
    ]


def test_a_signal_while_nothing_is_measured_ends_with_what_was_concluded(quick: Program, steps: list) -> None:
    write_member(quick.folder / "run/llama-1")
    write_member(quick.folder / "run/llama-2", shards=1)
    steps += [lambda: None, lambda: signal.raise_signal(signal.SIGTERM)]
    ending = quick.run("audit", "--watch=run", "-q")
    told = f"sw-audit: llama-2 is not whole, and waits: shard {SHARDS[1]} is missing"
    assert (ending.code, ending.complaints) == (0, [told])
    assert ending.out.splitlines()[-1] == f"1 checkpoint: PASSED: {CHECKS} pass"
    shutil.rmtree(quick.folder / "run/llama-1")
    steps += [lambda: signal.raise_signal(signal.SIGINT)]
    nothing = quick.run("audit", "--watch=run", "--out=other")
    assert (nothing.code, nothing.out) == (3, "0 checkpoints: NOTHING AUDITED\n")
    assert not (quick.folder / "other").exists()


def test_a_signal_while_one_is_measured_leaves_it_and_those_that_wait_inconclusive(
    quick: Program, steps: list
) -> None:
    for name in ("llama-1", "sigterm", "waiting"):
        folder = write_member(quick.folder / f"run/{name}")
        os.utime(folder / "config.json", (len(name), len(name) + ord(name[0])))
    ending = quick.run("audit", "--watch=run", "--no-report")
    assert ending.code == 3
    reason = "the run was stopped by SIGTERM"
    assert [(model.id, model.stopped) for model in quick.record().models] == [
        ("llama-1", None), ("sigterm", reason), ("waiting", reason),
    ]  # fmt: skip
    assert f"sw-audit: waiting: not measured, for {reason}" in ending.complaints
    assert steps == []


def test_a_checkpoint_that_is_deleted_or_changes_while_it_is_audited_is_no_result(
    quick: Program, steps: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        write_member(quick.folder / f"run/llama-{number}")
    real = run.measure_model

    def measure(audit: object, *rest: object) -> object:
        place = Path(audit.model.source)  # type: ignore[attr-defined]
        if place.name == "llama-2":
            shutil.rmtree(place)
            raise FileNotFoundError(place)
        if place.name == "llama-3" and not (place / "optimizer.pt").exists():
            (place / "optimizer.pt").write_bytes(b"1")
        return real(audit, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "measure_model", measure)
    ending = quick.run("audit", "--watch=run", "--idle=1s", "-q")
    assert (ending.code, list_models(quick)) == (0, ["llama-1", "llama-3"])
    assert ending.complaints[0] == "sw-audit: llama-2 was deleted while it was audited"
    assert "llama-3/optimizer.pt changed while it was audited" in ending.complaints[1]
    assert steps == []


def test_a_checkpoint_that_cannot_be_audited_is_one_line_and_holds_no_other_up(
    quick: Program, steps: list
) -> None:
    write_member(quick.folder / "run/gone-1")
    steps += [lambda: None, lambda: write_member(quick.folder / "run/llama-1"), lambda: None]
    ending = quick.run("audit", "--watch=run", "--idle=150s", "-q")
    assert ending.code == 2
    assert ending.complaints[0] == "sw-audit: model 'gone-1': model.safetensors is truncated; copy it again"
    assert {model.id: isinstance(model, ModelFailure) for model in quick.record().models} == {
        "gone-1": True, "llama-1": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--watch=none"], "folder 'none': there is no such folder; "),
        (
            ["--watch=run", "llama"],
            "--watch run: llama is named, and the checkpoints in the folder are the models; ",
        ),
        (["--watch=run", "-n2"], "--watch run -n 2: checkpoints are audited one after the other; "),
        (["--watch=run", "--idle=soon"], "--idle soon: 'soon' is no length of time such as 90, 90s, "),
        (
            ["--watch=run", "--check=prune-colapses"],
            "check 'prune-colapses': there is no such check; did you mean",
        ),
        (["--watch=run", "--parent=./none"], "model './none': there is no such folder; "),
        (["--watch=run", "--compare=none"], "baseline 'none': there is none in "),
        (["--watch=run", "two.swaudit.toml"], "a series under "),
        (["--watch=run", "two.swaudit.toml", "b.swaudit.toml"], "--watch run: 2 policies are named; "),
        (["--idle=5s"], "--idle 5s: there is no folder to watch; "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_does_not_go_with_watching_is_one_line(
    quick: Program, steps: list, arguments: list[str], told: str
) -> None:
    (quick.folder / "two.swaudit.toml").write_text('[[model]]\nsource = "a"\n[[model]]\nsource = "b"\n')
    (quick.folder / "b.swaudit.toml").write_text("")
    ending = quick.run("audit", *arguments)
    assert (ending.code, ending.out) == (2, "")
    [line] = ending.complaints
    assert line.startswith(f"sw-audit: {told}")
    assert steps == []


@pytest.mark.slow
def test_checkpoints_are_audited_while_a_training_run_writes_them_until_it_is_killed(program: Program) -> None:
    sources = write_fading(program.folder / "made", [1.0, 0.0])
    into = program.folder / "run"
    into.mkdir()
    arguments = ["audit", "--watch=run", "--parent=specimen", "--check=super-weight-retained", "--windows=8", "-q"]
    watching = subprocess.Popen(
        [*COMMAND, *arguments, "--no-report"],
        cwd=program.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    out = watching.stdout
    assert out is not None
    try:
        shown = []
        for source in sources:
            folder, weights = into / source.name, (source / "model.safetensors").read_bytes()
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
            (folder / "model.safetensors").write_bytes(weights[:5000])
            time.sleep(awaiting.SETTLED + 2)  # longer than what is whole would have to wait
            (folder / "model.safetensors").write_bytes(weights)
            shown.append(out.readline().strip())
        record = read_record(program.folder / "sw-audit-out/record.json")
        watching.send_signal(signal.SIGTERM)
        rest, err = watching.communicate(timeout=120)
    finally:
        watching.kill()
    assert shown == ["checkpoint-500: PASSED: 1 pass", "checkpoint-1000: FAILED: 1 fail"]
    assert (watching.returncode, rest) == (1, "2 checkpoints: FAILED: 1 pass, 1 fail\n")
    assert "is not whole" not in err
    assert [model.id for model in record.results][:1] == ["checkpoint-500"]
