"""Audits a policy of this folder, and sums models up in rows."""

from __future__ import annotations

from pathlib import Path

from sw_audit.checks.explain import PASSED
from sw_audit.cli.main import app
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.store import read_record
from sw_audit.record.verdict import Status

ROOT = Path(__file__).parents[2]
CACHE, OUT = ROOT / ".cache" / "real", ROOT / "sw-audit-out" / "real"


def audit(policy: str, *options: str, out: str | None = None) -> tuple[int, Record]:
    """Audit a policy of this folder as the command line does; return its exit code and its record."""
    folder = OUT / (out or policy)
    file = Path(__file__).with_name(f"{policy}.swaudit.toml")
    places = ["--out", str(folder), "--cache-dir", str(CACHE / "measured")]
    (folder / "record.json").unlink(missing_ok=True)
    try:
        app(["audit", str(file), *places, *options], prog_name="sw-audit")
        code = PASSED
    except SystemExit as ending:
        code = int(ending.code or 0)
    return code, read_record(folder / "record.json")


def summarize(result: ModelResult) -> tuple[str, str, str, str]:
    """Sum a model up in a row."""

    def name(level: str) -> list[str]:
        return [one.check for one in result.verdicts if one.level == level and one.status is Status.FAIL]

    gates = [one for one in result.verdicts if one.level == "gate" and one.status is not Status.SKIPPED]
    passed = sum(verdict.status is Status.PASS for verdict in gates)
    return (
        result.id,
        f"{passed} of {len(gates)} pass",
        ", ".join(name("gate")) or "-",
        ", ".join(name("law")) or "-",
    )
