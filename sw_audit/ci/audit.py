"""The audit as a job of a CI service: what to do stands in environment variables, so that no shell reads it.

    SW_AUDIT_POLICY=audit.swaudit.toml python -m sw_audit.ci.audit

| variable | holds |
|---|---|
| `SW_AUDIT_POLICY` | a policy file |
| `SW_AUDIT_MODEL` | models, one on a line; with a policy, those that are audited under it |
| `SW_AUDIT_PARENT` | the model that they descend from |
| `SW_AUDIT_ARGUMENTS` | more options of `sw-audit audit`, with quotes as in a shell |
| `SW_AUDIT_FAIL_ON` | the least verdict that fails the job: `inconclusive` (the default), `failed` or `never` |
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sw_audit.cli.main import BAD_INPUT, app
from sw_audit.errors import InputError
from sw_audit.printable import printable

OUT = Path("sw-audit-out")
COMMENT, SARIF = OUT / "comment.md", OUT / "sw-audit.sarif"
TOLERATED: Mapping[str, tuple[int, ...]] = {"inconclusive": (), "failed": (3,), "never": (1, 3)}
"""The exit codes of `sw-audit audit` that do not fail the job."""
VERDICTS = {0: "passed", 1: "failed", 3: "inconclusive"}


def list_arguments(variables: Mapping[str, str]) -> list[str]:
    """List the arguments of `sw-audit` that the variables of a job ask for.

    Raises:
        InputError: If they cannot be told apart.
    """
    models = [line.strip() for line in variables.get("SW_AUDIT_MODEL", "").splitlines() if line.strip()]
    policy, parent = (variables.get(f"SW_AUDIT_{name}", "").strip() for name in ("POLICY", "PARENT"))
    try:
        others = shlex.split(variables.get("SW_AUDIT_ARGUMENTS", ""))
    except ValueError as error:
        raise InputError("SW_AUDIT_ARGUMENTS", str(error), "close every quote") from error
    options = [f"--out={OUT}", f"--markdown={COMMENT}", f"--sarif={SARIF}"]
    options += ["--summary"] if variables.get("GITHUB_STEP_SUMMARY") else []
    options += [f"--parent={parent}"] if parent else []
    options += [f"--policy={policy}"] if policy and models else []
    # What comes after `--` is no option, whatever it begins with.
    return ["audit", *options, *others, "--", *(models or ([policy] if policy else []))]


def main() -> None:
    """Audit, tell GitHub Actions what came of it, and exit with the code of `sw-audit audit` if it counts."""
    asked = os.environ.get("SW_AUDIT_FAIL_ON") or "inconclusive"
    try:
        for file in (COMMENT, SARIF):
            file.unlink(missing_ok=True)  # that of an earlier run must not speak for this one
        if asked not in TOLERATED:
            raise InputError(f"SW_AUDIT_FAIL_ON {asked}", "that is no verdict", f"choose {', '.join(TOLERATED)}")
        arguments = list_arguments(os.environ)
    except (InputError, OSError) as error:
        print(f"sw-audit: {error}", file=sys.stderr)  # noqa: T201
        code = BAD_INPUT
    else:
        with _literally():
            print(f"$ {printable(shlex.join(['sw-audit', *arguments]))}", flush=True)  # noqa: T201
            code = _run(arguments)
    _tell_github(code)
    if code in TOLERATED.get(asked, ()):
        print(f"sw-audit: {VERDICTS[code]}, which does not fail this job (SW_AUDIT_FAIL_ON {asked})")  # noqa: T201
        code = 0
    sys.exit(code)


@contextmanager
def _literally() -> Iterator[None]:
    """Let GitHub take no line of the log for a command, such as `::add-mask::`: names in it are by others."""
    token = secrets.token_hex(16) if os.environ.get("GITHUB_ACTIONS") == "true" else ""
    if token:
        print(f"::stop-commands::{token}", flush=True)  # noqa: T201
    try:
        yield
    finally:
        if token:
            print(f"::{token}::", flush=True)  # noqa: T201


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="sw-audit")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    return 0


def _tell_github(code: int) -> None:
    if file := os.environ.get("GITHUB_OUTPUT"):
        written = {"verdict": VERDICTS.get(code, "error"), "exit-code": str(code)}
        written |= {
            name: str(OUT / path)
            for name, path in {"record": "record.json", "report": "report.html"}.items()
            if (OUT / path).is_file()
        }
        with Path(file).open("a", encoding="utf-8") as outputs:
            outputs.writelines(f"{name}={value}\n" for name, value in written.items())


if __name__ == "__main__":
    main()
