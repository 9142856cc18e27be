"""The program `sw-audit`: its commands, and how it ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sw_audit import __version__
from sw_audit.cli.audit import audit
from sw_audit.cli.compare import compare_quantizers
from sw_audit.cli.demo import demo
from sw_audit.cli.diff import diff
from sw_audit.cli.fingerprint import fingerprint
from sw_audit.cli.index import index
from sw_audit.cli.init import init
from sw_audit.cli.locate import locate
from sw_audit.cli.plan import plan
from sw_audit.cli.quantize import quantize
from sw_audit.cli.render import render
from sw_audit.cli.schema import schema
from sw_audit.cli.specimen import specimen
from sw_audit.errors import AuditError

BAD_INPUT = 2
BROKEN_PIPE = 141
"""What a shell shows for a program whose reader has gone: 128 plus SIGPIPE."""

HELP = """A test suite for model weights.

Finds the handful of scalars that a language model cannot live without, proves by intervention what they do,
and gates every compressed or fine-tuned descendant on still having them.

Exit codes: 0 passed, 1 a check failed, 2 usage or input error, 3 inconclusive, or nothing audited
or found in the index.
"""


class Commands(TyperGroup):
    """The commands; whatever they raise on purpose ends in one line and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except AuditError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                typer.echo(f"sw-audit: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            typer.echo("sw-audit: interrupted", err=True)
            ctx.exit(BAD_INPUT)
        except BrokenPipeError:
            # What is still buffered would be complained about at exit, when nobody can catch it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sw-audit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    pass  # Typer reads the options off the signature: `--version` acts by itself, `Commands` reads `--debug`.


for _command in (
    audit,
    plan,
    locate,
    compare_quantizers,
    quantize,
    index,
    fingerprint,
    diff,
    render,
    init,
    demo,
    specimen,
    schema,
):
    app.command()(_command)


def run() -> None:
    """Run the program on the command line's arguments."""
    app(prog_name="sw-audit")
