"""The shipped models through the command line: what a user meets first, and what a gate is for."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import subprocess
import termios
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import rewrite_weights, save_checkpoint
from support.evidence import make_policy
from support.program import COMMAND, Program, heed_interrupts

from sw_audit.checks.registry import find_checks
from sw_audit.cli import auditing
from sw_audit.record.record import Record
from sw_audit.record.store import encode_record
from sw_audit.record.verdict import Status
from sw_audit.runner.assignments import Assignment
from sw_audit.runner.output import UnfinishedFiles
from sw_audit.runner.run import RECALLED
from sw_audit.specimen.shipped import specimen_path
from sw_audit.stopping import Stopper

CHECKS = ("super-weights-as-expected", "prune-collapses", "other-outliers-harmless")
# As few as give a verdict, and the arms of three checks: measuring itself is tested elsewhere.
FEW = ("--windows=8", "--no-report", *(f"--check={check}" for check in CHECKS))
QUICK = ("--no-report", "-q", "--windows=8", "--check=super-weight-located", "--check=prune-collapses")
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests may share the cores with others, whose threads would wait for these."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def maimed(program: Program) -> Path:
    """A copy of the specimen whose super weight is zeroed."""
    (weight,) = json.loads(program.run("locate", "specimen", "--json").out)["super_weights"]
    copy = program.folder / "maimed"
    shutil.copytree(specimen_path(), copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[weight["parameter"]][weight["row"], weight["column"]] = 0.0
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.slow
def test_the_specimen_passes_every_check_that_applies_and_leaves_three_files(program: Program) -> None:
    ending = program.run("audit", "specimen", "--windows=16")
    assert (ending.code, ending.err) == (0, "")
    assert "skipped specimen matches-published-index: " in ending.out
    levels = Counter(check.level for check in find_checks().values() if check.is_about("model"))
    # The index has no entry for it, and it has no experts.
    told = f"PASSED: {levels['gate'] - 1} pass, 1 skipped; laws: {levels['law'] - 1} holds, 1 skipped"
    assert ending.out.splitlines()[-1] == told
    assert program.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


@pytest.mark.slow
def test_the_specimen_passes_also_where_laws_are_gates(program: Program) -> None:
    ending = program.run("audit", "specimen", "--windows=16", "--strict")
    assert (ending.code, ending.err) == (0, "")
    alone = [check for check in find_checks().values() if check.is_about("model")]
    assert ending.out.splitlines()[-1] == f"PASSED: {len(alone) - 2} pass, 2 skipped"


@pytest.mark.slow
def test_a_copy_that_lost_its_super_weight_fails_and_says_why(program: Program, maimed: Path) -> None:
    ending = program.run("audit", maimed, "--expect=some", *FEW)
    assert ending.code == 1
    assert "FAIL maimed super-weights-as-expected" in ending.out
    for label in ("because", "to do"):
        assert f"  {label}" in ending.out
    failed = [one.check for one in program.record().verdicts if one.status is Status.FAIL]
    assert all(f"FAIL maimed {check}" in ending.out for check in failed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expect", "code", "status"), [("some", 1, "fail"), ("none", 0, "pass"), ("any", 0, "skipped")]
)
def test_the_control_is_judged_by_what_is_expected(program: Program, expect: str, code: int, status: str) -> None:
    ending = program.run("audit", "control", f"--expect={expect}", *FEW)
    verdicts = {one.check: one for one in program.record().verdicts}
    assert ending.code == code
    assert [str(verdicts[check].status) for check in CHECKS] == [status, "skipped", "pass"]
    assert "No super weight was located" in verdicts["prune-collapses"].because
    assert program.record().find_model("control").location.outcome == "none"
    if expect == "some":
        assert "expect" in (verdicts["super-weights-as-expected"].remedy or "")


@pytest.mark.slow
def test_models_are_shared_among_workers(program: Program) -> None:
    ending = program.start("audit", "specimen", "control", "-n", "2", *FEW)
    assert (ending.code, ending.err) == (0, "")
    assert ending.out.splitlines()[-1] == "PASSED: 2 pass; laws: 3 holds, 1 skipped"
    assert [model.id for model in program.record().models] == ["specimen", "control"]
    (program.folder / "broken").mkdir()
    broken = program.start("audit", "./broken", "-n", "2")
    assert (broken.code, broken.out, len(broken.complaints)) == (2, "", 1)


@pytest.mark.slow
def test_two_runs_at_once_find_the_same_and_a_third_remembers_it(program: Program) -> None:
    def command(out: str) -> list[str]:
        return [*COMMAND, "audit", "specimen", f"--out={out}", "--cache-dir=shared", *QUICK]

    runs = [subprocess.Popen(command(out), cwd=program.folder) for out in ("a", "b")]
    assert [run.wait(300) for run in runs] == [0, 0]
    third = program.start("audit", "specimen", "--out=c", "--cache-dir=shared", *QUICK)
    assert (third.code, third.err) == (0, "")
    first, second, last = (program.record(f"{out}/record.json") for out in "abc")
    assert first.verdicts == second.verdicts == last.verdicts
    assert last.find_model("specimen").notes[-1] == RECALLED
    assert list((program.folder / "shared").rglob("*.tmp")) == []


@pytest.mark.slow
def test_a_second_run_remembers_unless_it_is_told_not_to(program: Program) -> None:
    assert program.run("audit", "specimen", *QUICK).code == 0
    assert RECALLED not in program.record().find_model("specimen").notes
    assert program.run("audit", "specimen", *QUICK).code == 0
    assert RECALLED in program.record().find_model("specimen").notes
    assert program.run("audit", "specimen", "--no-cache", *QUICK).code == 0
    assert RECALLED not in program.record().find_model("specimen").notes
    assert (program.folder / ".sw-audit/cache/CACHEDIR.TAG").is_file()


@pytest.mark.slow
def test_what_was_saved_can_be_compared_with(program: Program) -> None:
    assert program.run("audit", "specimen", "--save=before", *QUICK).code == 0
    ending = program.run("audit", "specimen", "--compare=before", "--check=quality-not-worse", *QUICK)
    assert ending.code == 0
    compared = {one.check: one for one in program.record().verdicts}["quality-not-worse"]
    assert (compared.status, compared.observed) == (Status.PASS, 1.0)
    unknown = program.run("audit", "specimen", "--compare=befor", *QUICK)
    assert (unknown.code, len(unknown.complaints)) == (2, 1)
    assert "did you mean 'before'?" in unknown.err


@pytest.fixture
def policy(program: Program) -> Path:
    """Two descendants of one parent: one with NaN in it, one that is cut off."""
    parent = save_checkpoint(program.folder / "parent")
    for name in ("nan", "cut"):
        shutil.copytree(parent, program.folder / name)
    rewrite_weights(program.folder / "nan", lambda tensors: tensors[DOWN][0].fill_(float("nan")))
    weights = program.folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    tables = [f'[[model]]\nsource = "{name}"\nparent = "./parent"\n' for name in ("nan", "cut")]
    path = program.folder / "it.swaudit.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


def waive(policy: Path, model: str, until: str) -> None:
    keys = f'check = "weights-intact"\nmodel = "{model}"\nuntil = {until}\nowner = "Ada"\nreason = "known"\n'
    policy.write_text(f"{policy.read_text()}\n[[waiver]]\n{keys}", encoding="utf-8")


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "shared"]
)
def test_broken_descendants_fail_the_run_each_with_its_reason(
    workers: tuple[str, ...], program: Program, policy: Path
) -> None:
    ending = program.run("audit", policy, *workers)
    assert (ending.code, ending.err) == (1, "")
    assert "FAIL nan weights-intact: serious flaws 1, limit 0" in ending.out
    assert "FAIL cut weights-intact: serious flaws 1, limit 0" in ending.out
    assert f"because   {DOWN}: it holds 40 NaN." in ending.out
    assert "because   model.safetensors: model.safetensors is cut off" in ending.out
    assert ending.out.splitlines()[-1] == "FAILED: 2 pass, 2 fail, 34 skipped; laws: 2 skipped"
    failures = program.record().failures
    assert [one.id for one in failures] == ["nan", "cut"]
    assert [one.weights.flaws[0].kind for one in failures if one.weights] == ["non-finite", "unreadable"]
    assert (program.folder / "sw-audit-out" / "report.html").exists()


def test_waivers_that_live_let_the_run_pass_and_are_shown(program: Program, policy: Path) -> None:
    waive(policy, "nan", "2999-12-31")
    assert program.run("audit", policy).code == 1
    waive(policy, "*", "2999-12-30")
    ending = program.run("audit", policy)
    assert (ending.code, ending.err) == (0, "")
    assert "waived nan weights-intact until 2999-12-31 by Ada: known" in ending.out
    assert "waived cut weights-intact until 2999-12-30 by Ada: known" in ending.out
    assert ending.out.splitlines()[-1] == "PASSED: 2 pass, 34 skipped, 2 waived; laws: 2 skipped"


def test_a_waiver_that_has_expired_fails_the_run_and_says_so(program: Program, policy: Path) -> None:
    waive(policy, "*", "2020-01-01")
    ending = program.run("audit", policy)
    assert ending.code == 1
    assert "The waiver of Ada expired on 2020-01-01 (known)." in ending.out


def test_a_parent_that_is_broken_is_an_error_of_the_input(program: Program, policy: Path) -> None:
    weights = program.folder / "parent" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    ending = program.run("audit", policy)
    assert ending.code == 2
    [line] = ending.complaints
    assert "parent'" in line
    assert "is cut off" in line


def test_a_descendant_that_is_not_there_is_an_error_of_the_input(program: Program, policy: Path) -> None:
    shutil.rmtree(program.folder / "nan")
    policy.write_text(policy.read_text().replace('"nan"', '"./nan"'))
    ending = program.run("audit", policy)
    assert ending.code == 2
    [line] = ending.complaints
    assert "there is no such folder" in line


def start(program: Program, *arguments: object) -> subprocess.Popen[str]:
    """Start an audit in a group of processes of its own."""
    return subprocess.Popen(
        [*COMMAND, "audit", *map(str, arguments)],
        cwd=program.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def wait_for(run: subprocess.Popen[str], stage: str) -> None:
    """Wait until a run says that a stage begins."""
    assert run.stderr is not None
    assert any(f"] {stage}" in line or f": {stage}" in line for line in run.stderr), stage


@pytest.mark.slow
def test_killing_a_run_at_any_moment_leaves_a_record_that_loads_and_the_next_one_goes_on(program: Program) -> None:
    assert (
        program.run("quantize", "specimen", "--recipe=int4/group64", "-o", program.folder / "w4", "-q").code == 0
    )
    checks = ("prune-collapses", "rtn-holdout-quality", "quality-not-worse", "top1-agreement")
    asked = ("specimen", "./w4", "--parent=specimen", "--no-report", *(f"--check={check}" for check in checks))
    path, moments = program.folder / "sw-audit-out" / "record.json", random.Random(13)  # noqa: S311 - no secrets

    def wait_until_it_begins(run: subprocess.Popen[str]) -> float:
        while not path.exists() and run.poll() is None:
            time.sleep(0.01)
        return time.monotonic()

    whole = start(program, *asked, "--no-cache")
    begun = wait_until_it_begins(whole)
    whole.communicate(timeout=300)
    seconds, expected = time.monotonic() - begun, program.record()
    for number in range(10):
        path.unlink()
        run = start(program, *asked)
        wait_until_it_begins(run)
        time.sleep(moments.uniform(0, seconds))
        run.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        run.communicate(timeout=120)
        models = program.record().models
        assert [model.id for model in models] == ["specimen", "w4"]
        assert all(model.verdicts for model in models)
        if number % 2 == 0:
            assert {model.stopped for model in models} <= {None, "the run was stopped by SIGTERM"}
            stopped = any(model.stopped for model in models)
            # At the very end, when everything is written, nothing hears it any more.
            ended = (whole.returncode, 128 + signal.SIGTERM, -signal.SIGTERM)
            assert run.returncode in ((1, 3) if stopped else ended)
    assert list((program.folder / ".sw-audit/cache").rglob("*.json"))
    assert program.run("audit", *asked).code == whole.returncode
    assert program.record().verdicts == expected.verdicts


@pytest.mark.slow
def test_ctrl_c_in_the_middle_leaves_every_file(program: Program) -> None:
    run = start(program, "specimen", "--windows=64")
    wait_for(run, "measuring")
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 3
    assert err.splitlines()[-1] == "sw-audit: the run was stopped by Ctrl-C; what is not decided is inconclusive"
    assert program.record().models[0].stopped == "the run was stopped by Ctrl-C"
    assert program.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]
    assert program.record("sw-audit-out/report.html") == program.record()


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_leaves_every_file(program: Program) -> None:
    run, terminal = pty.fork()
    if run == 0:
        os.chdir(program.folder)
        os.execv(COMMAND[0], [*COMMAND, "audit", "specimen", "--windows=64"])  # noqa: S606
    termios.tcsetwinsize(terminal, (50, 200))  # one of no size shows no bar
    told = b""
    while b"measuring" not in told:
        told += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(run, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    assert program.record().models[0].stopped == "the run was stopped by SIGHUP"
    assert program.files() == [f"sw-audit-out/{name}" for name in ("junit.xml", "record.json", "report.html")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["inspecting", "measuring"])
def test_a_signal_to_a_run_and_its_workers_ends_all_of_them(
    program: Program, number: signal.Signals, stage: str
) -> None:
    run = start(program, "specimen", "control", "-n2", "--windows=64")
    wait_for(run, stage)
    os.killpg(run.pid, number)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 3
    by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"sw-audit: the run was stopped by {by}; what is not decided is inconclusive\n" in err
    assert "Traceback" not in err
    assert {model.stopped for model in program.record().models} == {f"the run was stopped by {by}"}


def is_gone_soon(group: int) -> bool:
    """Whether all processes of a group end; those that were killed are in it until somebody takes note of it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_workers_of_a_run_that_was_killed_end_too(program: Program) -> None:
    run = start(program, "specimen", "control", "-n2", "--windows=64")
    wait_for(run, "measuring")
    run.kill()
    run.communicate(timeout=60)
    assert is_gone_soon(run.pid)
    assert {model.stopped for model in program.record().models} == {"the run did not end"}


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_and_its_workers_at_once(program: Program) -> None:
    run = start(program, "specimen", "control", "-n2", "--windows=64")
    wait_for(run, "measuring")
    for _ in range(2):
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.2)
    _, err = run.communicate(timeout=120)
    assert (run.returncode, err.splitlines()[-1]) == (2, "sw-audit: interrupted")
    assert "Traceback" not in err
    assert is_gone_soon(run.pid)
    ends = {"the run did not end", "the run was stopped by Ctrl-C"}
    assert {model.stopped for model in program.record().models} <= ends


@pytest.mark.slow
def test_the_time_of_a_run_is_up_for_its_workers_too(program: Program) -> None:
    ending = program.start("audit", "specimen", "control", "-n2", "--no-report", "--windows=64", "--budget=10s")
    assert ending.code == 3
    assert {model.stopped for model in program.record().models} == {"the run was stopped after its budget of 10 s"}


def test_a_record_that_takes_long_to_write_is_written_again_only_when_twenty_times_that_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, out = [100.0], tmp_path / "out"

    def encode(record: Record) -> str:
        hands[0] += 3
        return encode_record(record)

    monkeypatch.setattr(time, "monotonic", lambda: hands[0])
    monkeypatch.setattr(auditing, "encode_record", encode)
    unfinished, assignment = (
        UnfinishedFiles(out, out / "record.json"),
        Assignment("", "models", make_policy("a"), {"a": ()}),
    )
    audit = auditing._Audit(
        [(assignment, unfinished)], tmp_path / "junit.xml", None, Stopper(), debug=False, quiet=True
    )
    written = []
    for seconds in (0, 59, 1.5):
        hands[0] += seconds
        audit.keep(assignment, unfinished)
        written.append((out / "record.json").exists())
        (out / "record.json").unlink(missing_ok=True)
    assert written == [True, False, True]


def test_models_that_are_recalled_are_written_once_at_the_end(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def encode(record: Record) -> str:
        written.append(len(record.results))
        return encode_record(record)

    command = ("audit", "specimen", "control", "--no-report", "--windows=8", "--check=weights-intact")
    assert program.run(*command).code == 0
    monkeypatch.setattr(auditing, "encode_record", encode)
    assert program.run(*command).code == 0
    assert written == [0]  # before the first model; the end is written by another call
    assert len(program.record().results) == 2
