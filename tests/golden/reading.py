"""How the program is run and how what it writes is read: all that the golden comparison knows of names and shapes.

Whoever renames a key of the record or of `locate --json`, or moves the locator or the planted models, changes this
module and no data: the other modules of this folder see the plain dictionaries that are made here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT, ROOT / "plugins", ROOT / "reports")
PROGRAM = "from sw_audit.cli.main import run; run()"

Entries = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How the program ended, with the paths of this machine replaced.

    Attributes:
        code: Its exit code.
        out: What it wrote on standard output.
        err: What it wrote on standard error.
    """

    code: int
    out: str
    err: str


# The command line.


def start_program(folder: Path, *arguments: str) -> Ending:
    """Run the program in a folder: in a process of its own, with one thread, offline."""
    paths = os.pathsep.join([*map(str, SOURCES), os.environ.get("PYTHONPATH", "")])
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    return Ending(run.returncode, _hide_paths(run.stdout, folder), _hide_paths(run.stderr, folder))


def run_program(folder: Path, *arguments: str) -> Ending:
    """Run the program in a folder, in this process."""
    from typer.testing import CliRunner

    from sw_audit.cli.main import app

    result = CliRunner().invoke(app, list(arguments), prog_name="sw-audit")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    said = re.sub(r"^\[[\d:]+\] .*\n", "", result.stderr, flags=re.MULTILINE)  # where the work stands
    return Ending(result.exit_code, _hide_paths(result.stdout, folder), _hide_paths(said, folder))


def audit(folder: Path, *arguments: str) -> dict[str, Entries]:
    """Audit in a folder, with nothing remembered, and return the exit code, every figure and every sentence."""
    ending = start_program(folder, "audit", *arguments, "--no-cache", "--no-report", "--quiet", "--out=out")
    assert (folder / "out" / "record.json").exists(), ending.err
    record = json.loads((folder / "out" / "record.json").read_text(encoding="utf-8"))
    last = ending.out.splitlines()[-1]
    return {"ending": {"exit code": ending.code, "last line": last}, **read_record(record, folder)}


def refuse(folder: Path, *arguments: str) -> list[Any]:
    """Ask what is refused, and return the exit code and what is said; of an answer only that there is one."""
    ending = run_program(folder, *arguments)
    return [ending.code, *ending.err.splitlines(), *(["(an answer)"] if ending.out else [])]


def list_failures(folder: Path) -> list[str]:
    """List why models of the record that an audit left there could not be audited; nothing without a record."""
    path = folder / "sw-audit-out" / "record.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else []
    return [model["message"] for model in models if model["kind"] == "failure"]


def find_specimen() -> Path:
    """Return where the shipped specimen lies."""
    from sw_audit.specimen.shipped import specimen_path

    return Path(specimen_path())


def switch_hub_off(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let no model be fetched, nor found among those that were."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_demo(folder: Path) -> str:
    """Write the demo, and return the policy that audits it."""
    assert start_program(folder, "demo", "demo").code == 0
    return "demo/policy.swaudit.toml"


def write_shipped(folder: Path) -> Path:
    """Write the shipped models, and return the specimen's folder."""
    assert start_program(folder, "specimen", "shipped").code == 0
    return folder / "shipped" / "specimen"


def _hide_paths(text: str, folder: Path) -> str:
    # In a record a path below the own home is told from there.
    for place, name in ((find_specimen().parent, "SHIPPED"), (folder, "FOLDER")):
        text = text.replace(str(place), name).replace(str(place).replace(str(Path.home()), "~", 1), name)
    return text.replace(f"transformers {version('transformers')}", "transformers VERSION")


# The record.


def read_record(record: dict[str, Any], folder: Path) -> dict[str, Entries]:
    """Read from a record what is said of each check, and of each finding below it."""
    figures: Entries = {}
    findings: Entries = {}
    sentences: Entries = {}
    for verdict in (verdict for model in record["models"] for verdict in model["verdicts"]):
        key = f"{verdict['model']} {verdict['check']}"
        figures[key] = _read_figures(verdict)
        sentences[key] = [
            _hide_paths(verdict[part], folder) if verdict[part] else None
            for part in ("quantity", "because", "remedy")
        ]
        for finding in verdict["findings"]:
            label = _number(f"{key} / {finding['label']}", findings)
            findings[label] = _read_figures(finding)
            sentences[label] = _hide_paths(finding["because"], folder)
    return {"figures": figures, "findings": findings, "sentences": sentences}


def _read_figures(verdict: dict[str, Any]) -> Entries:
    return {key: verdict[key] for key in ("status", "observed", "low", "high", "limit")}


def _number(label: str, taken: Entries) -> str:
    # Two findings of one check may be called the same.
    same = sum(key == label or key.startswith(f"{label} #") for key in taken)
    return f"{label} #{same + 1}" if same else label


# The locator.


def locate(folder: Path, *arguments: str) -> Entries:
    """Locate on the command line."""
    ending = run_program(folder, "locate", *arguments, "--json")
    found = json.loads(ending.out)
    return {"exit code": ending.code, "depth": found["depth"], **_read_location(found)}


def name_planted(number: int) -> str:
    """Say what one planted model of the suite is."""
    design = _draw(number)
    traps = ", ".join(design.traps) or "no trap"
    return f"{number} {design.family} {design.dtype} {design.shape} {traps}"


def locate_planted(number: int) -> dict[str, Entries]:
    """Plant one model of the suite and locate in it, by depth."""
    from sw_audit.locate.locator import locate_super_weights
    from sw_audit.testing import build_planted_model

    planted = build_planted_model(_draw(number))
    text = planted.design.text
    located = {
        depth: locate_super_weights(planted.checkpoint, text, depth=depth)  # type: ignore[arg-type]
        for depth in ("full", "early")
    }
    return {depth: _read_location(json.loads(found.model_dump_json())) for depth, found in located.items()}


def list_families() -> set[str]:
    """List the families that can be planted."""
    from sw_audit.testing.families import DENSE, EXPERTS, VISION

    return {*DENSE, *EXPERTS, *VISION}


def family_of(number: int) -> str:
    """Return the family of one planted model."""
    return str(_draw(number).family)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw(number: int) -> Any:
    from sw_audit.testing import draw_design
    from sw_audit.testing.families import DENSE, EXPERTS, VISION

    return draw_design(number, 0, (*DENSE, *EXPERTS, *VISION))


def _read_location(found: dict[str, Any]) -> Entries:
    weights = ("layer", "row", "column", "expert", "value", "share")
    activations = ("channel", "token", "value", "first_layer", "last_layer")
    return {
        "outcome": found["outcome"],
        "super weights": [{key: one[key] for key in weights} for one in found["super_weights"]],
        "super activations": [{key: one[key] for key in activations} for one in found["super_activations"]],
        "layers": found["layers_seen"],
        "because": found["because"],
    }
