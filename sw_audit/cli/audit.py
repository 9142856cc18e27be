"""`sw-audit audit`: models through the runner, the verdicts as a table, a record, a report and JUnit XML."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.options import AuditOptions, describe
from sw_audit.errors import InputError, OutputError
from sw_audit.runner.options import SUFFIX, AuditSettings


def audit(
    context: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|POLICY]...",
            help="What to audit: paths of checkpoint folders or files, hub ids, ID=SOURCE to choose an id, "
            "policy files (*.swaudit.toml), or the words 'specimen' and 'control' for the models that ship with "
            "sw-audit. By default the models of [tool.sw_audit] in pyproject.toml.",
            show_default=False,
        ),
    ] = None,
    *,
    options: AuditOptions,
    cache: Annotated[
        bool, typer.Option(help="Keep measurements; an unchanged model is not measured again.")
    ] = True,
    cache_dir: Annotated[Path | None, describe("cache-dir")] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for record.json, report.html and junit.xml.")
    ] = Path("sw-audit-out"),
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to write the JUnit XML (default: junit.xml in the output folder)."
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    workers: Annotated[int, typer.Option("-n", metavar="N", min=0, help="Audit models in so many processes.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict line only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the reason of every verdict.")] = False,
) -> None:
    """Audit models, print the verdicts, and leave a record and a report.

    For example:

      sw-audit audit specimen

      sw-audit audit ./out/llama-w4 --corpus wikitext.txt

      sw-audit audit w4=./out/llama-w4 w8=./out/llama-w8 -n 2

      sw-audit audit audit.swaudit.toml

      sw-audit audit ./out/llama-w4 --parent ./llama

      sw-audit audit ./llama --save before, then sw-audit audit ./llama-tuned --compare before
    """
    started = time.monotonic()
    models, files, only = _sort_targets(targets or [], options["policy"])
    policy = options["policy"] or only
    settings = AuditSettings.of_values(
        {
            **options,
            "model": models,
            "policy": policy and policy.absolute(),
            "cache-dir": cache_dir,
            "no-cache": not cache,
            "out": out,
            "no-report": not report,
        }
    )
    _check_junit(junit)
    from sw_audit.cli.auditing import audit_models, print_outcome

    debug = bool(context.find_root().params.get("debug"))
    outcome = audit_models(
        settings, files, _find_root(), junit or out / "junit.xml", workers, debug, quiet, started
    )
    print_outcome(outcome, quiet=quiet, verbose=verbose)
    raise typer.Exit(outcome.code)


def _sort_targets(targets: list[str], policy: Path | None) -> tuple[list[str], list[Path], Path | None]:
    """Tell models, policy files and a single policy file of any other name apart."""
    files = [target for target in targets if target.endswith(".toml") and not Path(target).is_dir()]
    models = [target for target in targets if target not in files]
    others = [file for file in files if not file.endswith(SUFFIX)]
    if others and (models or policy or len(files) > 1):
        raise InputError(
            f"policy {others[0]}",
            "its name says nothing of sw-audit, so it can only be audited alone",
            f"call it NAME{SUFFIX}, or give it with --policy to audit other models under it",
        )
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"policy {file}", "there is no such file", "write one with `sw-audit init`")
    return models, [Path(file) for file in files if file not in others], Path(others[0]) if others else None


def _find_root() -> Path:
    """Return the folder whose pyproject.toml counts: the working folder's, or the nearest above."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def _check_junit(junit: Path | None) -> None:
    """Complain before anything is measured about a file that cannot be written after."""
    if junit and not (junit.parent.is_dir() and os.access(junit.parent, os.W_OK) and not junit.is_dir()):
        raise OutputError(f"output {junit}", "it cannot be written there", "name a file in a folder that exists")
