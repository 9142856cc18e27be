from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import jsonschema
import pytest
import typer
from support.evidence import make_record
from support.program import COMMAND, Program

from sw_audit import __version__
from sw_audit.cli import main
from sw_audit.cli.main import COMMANDS, load_command
from sw_audit.policy.policy import Policy
from sw_audit.policy.reading import read_policy
from sw_audit.record.store import encode_record


def test_help_names_every_command_and_that_of_each_has_an_example(program: Program) -> None:
    ending = program.run("--help")
    assert ending.code == 0
    assert "Exit codes" in ending.out
    assert program.run("-h").out == ending.out
    for command in COMMANDS:
        assert f"\n  {command} " in ending.out
        of_command = program.run(command, "--help")
        assert of_command.code == 0
        assert "\n  For example:\n" in of_command.out
        assert f"\n    sw-audit {command}" in of_command.out


def test_the_version_is_one_line(program: Program) -> None:
    assert program.run("--version").out == f"sw-audit {__version__}\n"


@pytest.mark.parametrize("arguments", [["bogus"], ["--bogus"], ["schema", "bogus"], ["render", "x"]])
def test_what_is_not_understood_is_a_usage_error(program: Program, arguments: list[str]) -> None:
    ending = program.run(*arguments)
    assert ending.code == 2
    assert "Usage: sw-audit" in ending.err
    assert ending.out == ""


def test_init_writes_the_default_policy_and_overwrites_only_by_force(program: Program) -> None:
    file = program.folder / "audit.swaudit.toml"
    assert program.run("init").code == 0
    assert read_policy(file) == Policy()
    text = file.read_text()
    assert "minimum_ratio" in text
    assert program.run("init", "mine.swaudit.toml").code == 0
    file.write_text("seed = 1\n")
    refused = program.run("init")
    complaint = "it exists already; name another file, or overwrite it with --force"
    assert (refused.code, refused.err) == (2, f"sw-audit: output audit.swaudit.toml: {complaint}\n")
    assert file.read_text() == "seed = 1\n"
    assert program.run("init", "--force").code == 0
    assert file.read_text() == text
    nowhere = program.run("init", "no/such/place.swaudit.toml")
    assert (nowhere.code, len(nowhere.complaints)) == (2, 1)


def test_the_schemas_describe_policy_and_record(program: Program) -> None:
    both = json.loads(program.run("schema").out)
    policy, record = (json.loads(program.run("schema", which).out) for which in ("policy", "record"))
    assert both == {"policy": policy, "record": record}
    jsonschema.validate({"seed": 3, "model": [{"source": "x"}]}, policy)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"sede": 3}, policy)
    jsonschema.validate(json.loads(encode_record(make_record())), record)


def test_a_record_is_rendered_into_a_file_or_onto_standard_output(quick: Program) -> None:
    (quick.folder / "record.json").write_text(encode_record(make_record()))
    assert quick.run("render", "record.json", "-o", "page.html", "--unverified").out == "wrote page.html\n"
    page = (quick.folder / "page.html").read_text()
    assert page == "<title>specimen, broken, control, gone as html</title>"
    assert quick.run("render", "record.json", "--output=-", "--unverified").out == page
    nowhere = quick.run("render", "record.json", "-o", "no/such/x.html", "--unverified")
    assert (nowhere.code, len(nowhere.complaints)) == (2, 1)
    assert "output no/such/x.html" in nowhere.err


@pytest.mark.slow
def test_a_report_carries_its_record_and_can_be_rendered_again(program: Program) -> None:
    (program.folder / "record.json").write_text(encode_record(make_record()))
    program.run("render", "record.json", "-o", "page.html", "--unverified")
    page = (program.folder / "page.html").read_text()
    assert page.startswith("<!")
    assert program.run("render", "page.html", "--output=-", "--unverified").out == page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.json", "-o", "x.html"], "record none.json"),
        (["broken.json", "-o", "x.html"], "it is not JSON"),
        (["record.json", "-o", "x.html", "--format=bogus"], "format 'bogus'"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(program: Program, arguments: list[str], told: str) -> None:
    (program.folder / "record.json").write_text(encode_record(make_record()))
    (program.folder / "broken.json").write_text("{")
    ending = program.run("render", *arguments, "--unverified")
    assert (ending.code, len(ending.complaints)) == (2, 1)
    assert told in ending.err
    assert program.files() == ["broken.json", "record.json"]


def test_the_specimen_is_written_out_as_ordinary_checkpoints(program: Program) -> None:
    ending = program.run("specimen", "models")
    assert ending.code == 0
    assert (
        sorted(f"models/{Path(line).relative_to('models')}" for line in ending.out.splitlines()) == program.files()
    )
    for model in ("specimen", "control"):
        assert {"config.json", "model.safetensors"} <= {path.name for path in Path("models", model).iterdir()}
    again = program.run("specimen", "models")
    assert (again.code, len(again.complaints)) == (2, 1)


def test_a_reader_that_goes_away_is_no_complaint() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    run = subprocess.run([*COMMAND, "schema"], stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(theirs)
    assert run.stderr == b""
    assert run.returncode == 141


WAITING = """
import sys, tempfile, time
from sw_audit.cli import main
def wait(name):
    with tempfile.TemporaryDirectory(dir="."):
        print("ready", flush=True)
        time.sleep(60)
main.load_command = wait
main.run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_any_command_with_one_line_and_leaves_no_folder(
    program: Program, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", WAITING, "schema"]
    run = subprocess.Popen(command, cwd=program.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    assert len(list(program.folder.iterdir())) == 1
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (code, f"sw-audit: ended by {number.name}\n")
    assert list(program.folder.iterdir()) == []


LIGHT = [["--help"], ["--version"], ["init"], ["schema"], ["audit", "--help"], ["audit", "none.swaudit.toml"]]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_commands_that_need_no_model_start_without_torch(program: Program, arguments: list[str]) -> None:
    script = (
        "import sys; from sw_audit.cli.main import run\n"
        "try: run()\n"
        "finally: sys.stderr.write(str([name for name in ('torch', 'transformers') if name in sys.modules]))"
    )
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, cwd=program.folder, capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr.splitlines()[-1] == "[]"


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, sentence in COMMANDS.items():
        assert " ".join(load_command(name).help.split("\n\n")[0].split()) == sentence


@pytest.mark.slow
@pytest.mark.parametrize("command", ["specimen out", "demo out", "quantize specimen --recipe=int4/row -o out -q"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(program: Program, command: str) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (40_000, 40_000))  # no file may be longer
    run = subprocess.run(
        [*COMMAND, *command.split()],
        cwd=program.folder,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    complaint = "sw-audit: output folder out: "
    assert (run.returncode, len(run.stderr.splitlines()), run.stderr.startswith(complaint)) == (2, 1, True)
    assert "File too large" in run.stderr
    assert list(program.folder.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_that_nobody_foresaw_is_one_line_and_ends_with_70_in_every_command(
    program: Program, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("nobody foresaw it")

    loaded = typer.Typer(add_completion=False)
    loaded.command(command)(fail)
    monkeypatch.setattr(main, "load_command", lambda _name: typer.main.get_command(loaded))
    monkeypatch.setattr(tempfile, "tempdir", str(program.folder))
    ending = program.run(command)
    assert (ending.code, ending.out) == (70, "")
    [line] = ending.complaints
    assert line.startswith("sw-audit: an error of sw-audit itself, ZeroDivisionError: nobody foresaw it; ")
    [file] = program.folder.glob("sw-audit-error-*.txt")
    assert str(file) in line
    assert "in fail" in file.read_text()
    assert "in fail" in program.run("--debug", command).err


def test_the_exit_code_of_a_defect_is_in_the_help(program: Program) -> None:
    assert "70 an error of sw-audit itself" in " ".join(program.run("--help").out.split())
