"""`sw-audit audit`: models through the runner, the verdicts as a table, a record, a report and JUnit XML."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.options import AuditOptions, describe
from sw_audit.duration import parse_duration
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
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Audit models on the Ray cluster at this address; without one on that of RAY_ADDRESS, else on "
            "one that is started here. Name the models first.",
        ),
    ] = None,
    watch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Audit the checkpoints that a training run writes into this folder, each as soon as it is whole.",
        ),
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="End watching when nothing new came for so long, such as 30min (default: never)."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict line only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the reason of every verdict.")] = False,
) -> None:
    """Audit models, print the verdicts, and leave a record and a report.

    For example:

      sw-audit audit specimen

      sw-audit audit ./out/llama-w4 --corpus wikitext.txt

      sw-audit audit w4=./out/llama-w4 w8=./out/llama-w8 -n 2

      sw-audit audit audit.swaudit.toml

      sw-audit audit audit.swaudit.toml --ray 10.0.0.1:6379

      sw-audit audit ./out/llama-w4 --parent ./llama

      sw-audit audit audit.swaudit.toml --watch ./run --idle 2h

      sw-audit audit ./llama --save before, then sw-audit audit ./llama-tuned --compare before
    """
    started = time.monotonic()
    models, files, only = _sort_targets(targets or [], options["policy"])
    policy = options["policy"] or only
    if workers and ray is not None:
        raise InputError(
            f"-n {workers} --ray", "models are audited in processes here or on Ray", "give one of them"
        )
    spread = f"-n {workers}" if workers else "" if ray is None else "--ray"
    pause = _check_watch(watch, idle, models, [*files, *([policy] if policy else [])], spread)
    if watch and files:
        [policy] = files
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
    places = _place_junit(junit, settings), find_root()
    debug = bool(context.find_root().params.get("debug"))
    if watch is not None:
        from sw_audit.cli.series import audit_series

        raise typer.Exit(
            audit_series(
                settings, watch, pause, places, debug=debug, quiet=quiet, verbose=verbose, started=started
            )
        )
    from sw_audit.cli.auditing import audit_models, print_outcome

    outcome = audit_models(settings, files, places[1], places[0], workers, debug, quiet, started, ray)
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


def _check_watch(
    watch: Path | None, idle: str | None, models: list[str], policies: list[Path], spread: str
) -> float | None:
    """Complain about what does not go with watching; return the seconds after which it ends."""
    if watch is None:
        if idle is not None:
            raise InputError(f"--idle {idle}", "there is no folder to watch", "name one with --watch")
        return None
    asked = f"--watch {watch}"
    if models:
        found = f"{models[0]} is named, and the checkpoints in the folder are the models"
        raise InputError(asked, found, "leave it out; give what they descend from by --parent")
    if len(policies) > 1:
        raise InputError(asked, f"{len(policies)} policies are named", "give one")
    if spread:
        raise InputError(f"{asked} {spread}", "checkpoints are audited one after the other", f"leave {spread} out")
    try:
        return None if idle is None else parse_duration(idle)
    except ValueError as error:
        raise InputError(f"--idle {idle}", str(error), "correct it") from error


def find_root() -> Path:
    """Return the folder whose pyproject.toml counts: the working folder's, or the nearest above."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def _place_junit(junit: Path | None, settings: AuditSettings) -> Path:
    """Complain before anything is measured about a file that cannot be written after; return where it goes."""
    if junit and not (junit.parent.is_dir() and os.access(junit.parent, os.W_OK) and not junit.is_dir()):
        raise OutputError(f"output {junit}", "it cannot be written there", "name a file in a folder that exists")
    place = junit or settings.out / "junit.xml"
    for form, path in settings.formats.items():
        if path.absolute() == place.absolute():
            raise OutputError(f"{form} {path}", "the JUnit XML is written there", "name another file")
    return place
