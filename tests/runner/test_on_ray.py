"""Models on a real cluster of Ray: the verdicts of one process, whatever becomes of its workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.descendants import write_descendants
from support.program import COMMAND, Program, heed_interrupts, leave_progress_out

from sw_audit import __version__
from sw_audit.errors import InputError
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.record import ModelFailure, ModelResult
from sw_audit.runner import on_ray
from sw_audit.runner.on_ray import connect_ray

pytest.importorskip("ray", reason="`make others` runs it")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray and what it is built on

QUICK = ("--effort", "quick", "--check", "super-weight-retained", "--check", "perplexity-ratio", "--no-report")
CLUSTER = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
node = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
print("at", node.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        command = [sys.executable, "-c", CLUSTER]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            yield next(line.split()[1] for line in process.stdout if line.startswith("at "))
            process.communicate()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.chdir(tmp_path)
    return Program(tmp_path)


def begin(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the program in a process of its own, the head of a group as on a terminal."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read standard error until a line has some words in it; return all that was read."""
    assert process.stderr
    read = ""
    for line in process.stderr:
        read += line
        if words in line:
            return read
    raise AssertionError(read)


def find_workers() -> list[psutil.Process]:
    """Return the workers that run a task."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ray::act" in (process.info["cmdline"] or [""])[0]
    ]


def test_a_worker_that_is_killed_in_the_middle_of_a_model_changes_no_verdict(
    program: Program, cluster: str
) -> None:
    policy = write_descendants(program.folder, 3)
    alone = program.run("audit", policy, *QUICK, "--no-cache", "--out", "alone")
    run = begin(program.folder, "audit", policy, *QUICK, "--no-cache", "--ray", cluster)
    wait_for(run, "tune-1: ")
    [victim, *_] = find_workers()
    victim.send_signal(signal.SIGKILL)
    out, err = run.communicate()
    assert leave_progress_out(err) == ""
    assert run.returncode == alone.code == 1
    assert program.record().verdicts == program.record("alone/record.json").verdicts
    assert out.splitlines()[-1] == alone.out.splitlines()[-1]
    assert "3 of 3 models done, 1 failing" in err


def test_the_parent_is_asked_once_and_a_second_run_measures_nothing(program: Program, cluster: str) -> None:
    policy = write_descendants(program.folder, 2)
    assert program.start("audit", policy, *QUICK, "--ray", cluster).code == 0
    assert len(list((program.folder / ".sw-audit/cache/parent").rglob("*.json"))) == 1
    first = program.record()
    again = program.start("audit", policy, *QUICK, "--ray", cluster)
    assert (again.code, again.err) == (0, "")
    assert program.record().verdicts == first.verdicts
    assert all(
        "Remembered" in " ".join(model.notes)
        for model in program.record().models
        if isinstance(model, ModelResult)
    )


def test_a_folder_that_vanishes_is_one_line_and_the_finished_models_are_kept(
    program: Program, cluster: str
) -> None:
    policy = write_descendants(program.folder, 3)
    run = begin(program.folder, "audit", policy, *QUICK, "--ray", cluster)
    wait_for(run, "tune-0: ")
    shutil.rmtree(program.folder / "tune-2")
    _, err = run.communicate()
    assert run.returncode == 2
    [line] = leave_progress_out(err).splitlines()
    assert line.startswith("sw-audit: ")
    assert "tune-2" in line
    *finished, gone = program.record().models
    assert [model.__class__ for model in finished] == [ModelResult, ModelResult]
    assert isinstance(gone, ModelFailure)


def test_ctrl_c_keeps_what_was_decided_and_leaves_nothing_of_a_cluster_of_its_own(program: Program) -> None:
    policy = write_descendants(program.folder, 3)
    run = begin(program.folder, "audit", policy, "--no-report", "--ray")
    wait_for(run, "tune-0: ")
    started = psutil.Process(run.pid).children(recursive=True)
    # Nothing of it can be reached from another machine.
    places = {
        place.laddr.ip for one in started for place in one.net_connections("tcp") if place.status == "LISTEN"
    }
    assert places <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 3
    told = [line for line in leave_progress_out(err).splitlines() if line]
    assert told[0].startswith("sw-audit: Ctrl-C: stopping after this step")
    assert told[1:] == ["sw-audit: the run was stopped by Ctrl-C; what is not decided is inconclusive"]
    assert {model.stopped for model in program.record().models} == {"the run was stopped by Ctrl-C"}
    assert psutil.wait_procs(started, timeout=30)[1] == []


def test_a_budget_that_is_spent_leaves_the_rest_inconclusive(program: Program, cluster: str) -> None:
    policy = write_descendants(program.folder, 2)
    ending = program.start("audit", policy, *QUICK, "--ray", cluster, "--budget", "1s")
    assert ending.code == 3
    assert ending.complaints == [
        "sw-audit: the run was stopped after its budget of 1 s; what is not decided is inconclusive"
    ]


def test_where_no_ray_answers_is_one_line_within_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_PATIENCE", 5.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        with (
            pytest.raises(InputError, match=f"--ray {address}: no Ray answers there within 5 s"),
            connect_ray(address),
        ):
            pass
        assert time.monotonic() - started < 60
    monkeypatch.setattr(on_ray, "_PATIENCE", 60.0)
    with pytest.raises(InputError, match=r"--ray it\.toml: no Ray answers there \(ValueError: Invalid address"):
        connect_ray("it.toml").__enter__()


STUBS = {
    "": "sw-audit cannot be imported there (No module named 'sw_audit.record')",
    "raise ModuleNotFoundError('no sw_audit')": "sw-audit cannot be imported there (no sw_audit)",
    "__version__ = '0.0.9'": f"its sw-audit is 0.0.9, and this one {__version__}",
}


@pytest.mark.parametrize("stub", STUBS)
def test_a_worker_without_the_package_or_with_another_version_says_so(tmp_path: Path, stub: str) -> None:
    import ray
    from ray import cloudpickle

    _, act = on_ray._make_remotes(ray)
    (tmp_path / "sw_audit").mkdir()
    version = f"__version__ = {__version__!r}\n" if not stub else ""
    (tmp_path / "sw_audit" / "__init__.py").write_text(version + stub)
    order = {**on_ray._describe_here(), "folder": str(tmp_path)}
    (tmp_path / "sent").write_bytes(cloudpickle.dumps((act._function, order)))
    script = "import pickle; act, order = pickle.load(open('sent', 'rb')); print(act(order, None, None)['found'])"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.stdout.strip() == STUBS[stub], run.stderr


def test_another_schema_and_a_path_that_is_missing_there_are_told(tmp_path: Path) -> None:
    import ray

    _, act = on_ray._make_remotes(ray)
    here, gone = on_ray._describe_here(), str(tmp_path / "gone")
    assert act._function(here, None, None) == {}
    assert act._function({**here, "schema": 99}, None, None)["found"].endswith("and those here 99")
    assert act._function({**here, "paths": [gone]}, None, None)["found"] == f"{gone} is missing there"
    assert act._function({**here, "folder": gone}, None, None)["found"] == f"{gone} is missing there"


def test_a_model_that_fits_no_node_is_refused_before_it_is_sent(program: Program, cluster: str) -> None:
    huge = "from sw_audit.runner import on_ray; on_ray.find_memory_needed = lambda *_: 10**15; "
    command = [sys.executable, "-c", huge + COMMAND[-1], "audit", "specimen", *QUICK, "--ray", cluster]
    run = subprocess.run(command, cwd=program.folder, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    [line] = leave_progress_out(run.stderr).splitlines()
    assert line.startswith("sw-audit: model specimen: its audit takes about 909 TiB of memory, and the largest")


def test_a_policy_is_the_same_on_a_worker_also_in_what_nobody_set() -> None:
    policy = Policy(models=(ModelPolicy(source="specimen", bos="never"),), seed=3)
    again = Policy.model_validate_json(policy.model_dump_json(by_alias=True, exclude_unset=True))
    assert again == policy
    assert again.model_fields_set == policy.model_fields_set
