"""`sw-audit audit`: pytest with the plugin, and the verdicts as a table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from sw_audit.cli.options import Corpus, Seed, Windows
from sw_audit.errors import InputError, OutputError

POLICY_SUFFIX = ".swaudit.toml"


def audit(
    context: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|POLICY]...",
            help="What to audit: paths of checkpoint folders, hub ids, ID=SOURCE to choose an id, policy files "
            "(*.swaudit.toml), or the words 'specimen' and 'control' for the models that ship with sw-audit. "
            "By default the models of [tool.sw_audit] in pyproject.toml.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy for the models named as arguments.")
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Run only this check; can be given several times.")
    ] = None,
    corpus: Corpus = None,
    windows: Windows = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None, typer.Option(help="Dtype to load in.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="Such as cpu or cuda:0.")] = None,
    expect: Annotated[
        Literal["some", "none", "any"] | None,
        typer.Option(help="Whether to expect super weights: some (the default), none, or any outcome."),
    ] = None,
    inconclusive: Annotated[
        Literal["fail", "warn"] | None, typer.Option(help="Whether an inconclusive verdict fails or only warns.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Index file of your own, for matches-published-index beside the published one."
        ),
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Hold every model beside this one, which it was made from: a path or a hub id."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Hold every model against a baseline: its name, or the path of a record."
        ),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Keep the record as a baseline of this name, in .sw-audit/baselines."),
    ] = None,
    seed: Seed = None,
    cache: Annotated[
        bool, typer.Option(help="Remember what was measured; an unchanged model is not measured again.")
    ] = True,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it is remembered (default: .sw-audit/cache).")
    ] = None,
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
    workers: Annotated[
        int, typer.Option("-n", metavar="N", min=0, help="Audit models in so many processes (needs pytest-xdist).")
    ] = 0,
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
    from sw_audit.cli.listener import Listener
    from sw_audit.cli.table import print_verdicts

    said: dict[str, Sequence[object]] = {
        "--sw-audit-policy": [policy] if policy else [],
        "--sw-audit-check": check or [],
        "--sw-audit-corpus": [corpus] if corpus else [],
        "--sw-audit-windows": [] if windows is None else [windows],
        "--sw-audit-dtype": [dtype] if dtype else [],
        "--sw-audit-device": [device] if device else [],
        "--sw-audit-expect": [expect] if expect else [],
        "--sw-audit-inconclusive": [inconclusive] if inconclusive else [],
        "--sw-audit-seed": [] if seed is None else [seed],
        "--sw-audit-index": [index] if index else [],
        "--sw-audit-parent": [find_shipped(parent)] if parent else [],
        "--sw-audit-compare": [compare] if compare else [],
        "--sw-audit-save": [save] if save else [],
        "--sw-audit-cache-dir": [cache_dir] if cache_dir else [],
        "--sw-audit-out": [out],
    }
    arguments = [f"{option}={value}" for option, values in said.items() for value in values]
    arguments += [] if report else ["--sw-audit-no-report"]
    arguments += [] if cache else ["--sw-audit-no-cache"]
    arguments += _name_targets(targets or [], policy)
    _check_place(junit)
    listener = Listener(quiet=quiet, debug=bool(context.find_root().params.get("debug")))
    with _own_environment(), tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch, "junit.xml")
        _run_pytest([*_isolate(workers), f"--junitxml={written}", *arguments], listener)
        files = {"junit": _keep_junit(written, junit or out / "junit.xml")} if listener.records else {}
    print_verdicts(listener, files, quiet=quiet, verbose=verbose)
    raise typer.Exit(listener.exit_code)


def _name_targets(targets: list[str], policy: Path | None) -> list[str]:
    """Turn what is to be audited into arguments of pytest."""
    files = [target for target in targets if target.endswith(".toml") and not Path(target).is_dir()]
    models = [target for target in targets if target not in files]
    others = [file for file in files if not file.endswith(POLICY_SUFFIX)]
    if others and (models or policy or len(files) > 1):
        raise InputError(
            f"policy {others[0]}",
            "its name says nothing of sw-audit, so it can only be audited alone",
            f"call it NAME{POLICY_SUFFIX}, or give it with --policy to audit other models under it",
        )
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"policy {file}", "there is no such file", "write one with `sw-audit init`")
    arguments = [f"--sw-audit-policy={file}" for file in others]
    arguments += [f"--sw-audit-model={find_shipped(model)}" for model in models]
    arguments += [file for file in files if file not in others]
    return arguments or ["--sw-audit"]


def find_shipped(source: str) -> str:
    """Return the path of a model that ships with sw-audit for its word, anything else as it is."""
    if source not in ("specimen", "control") or Path(source).exists():
        return source
    from sw_audit.specimen.shipped import control_path, specimen_path

    return str(specimen_path() if source == "specimen" else control_path())


def _isolate(workers: int) -> list[str]:
    """Return the arguments that keep the pytest settings of the folder, and other plugins, out of the audit."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
    arguments = [f"--config-file={os.devnull}", f"--rootdir={root}", "--noconftest", "--disable-plugin-autoload"]
    arguments += ["-p", "no:terminal", "-p", "no:cacheprovider", "-o", "junit_suite_name=sw-audit"]
    installed = any(point.name == "sw_audit" for point in entry_points(group="pytest11"))
    arguments += ["-p", "sw_audit" if installed else "pytest_sw_audit.plugin"]
    if workers:
        if find_spec("xdist") is None:
            raise InputError(f"-n {workers}", "pytest-xdist is not installed", "pip install 'sw-audit[xdist]'")
        arguments += ["-p", "xdist", "-n", str(workers)]
    return arguments


@contextmanager
def _own_environment() -> Iterator[None]:
    """Keep settings for pytest that come through the environment out of the audit."""
    kept = {name: os.environ.pop(name, None) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _run_pytest(arguments: list[str], listener: object) -> None:
    import pytest

    pytest.main(arguments, plugins=[listener])


def _check_place(junit: Path | None) -> None:
    """Complain before anything is measured about a file that cannot be written after."""
    if junit and not (junit.parent.is_dir() and os.access(junit.parent, os.W_OK) and not junit.is_dir()):
        raise OutputError(f"output {junit}", "it cannot be written there", "name a file in a folder that exists")


def _keep_junit(written: Path, wanted: Path) -> Path:
    from sw_audit.record.store import write_text

    wanted.parent.mkdir(parents=True, exist_ok=True)
    write_text(wanted, written.read_text(encoding="utf-8"))
    return wanted
