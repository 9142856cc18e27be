"""The program `sw-audit`: its commands, and how it ends.

A command's module is imported when the command is called, so that help and complaints come at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from sw_audit import __version__
from sw_audit.cli.groups import spread_groups
from sw_audit.defect import DEFECT, tell_defect
from sw_audit.errors import AuditError
from sw_audit.printable import printable
from sw_audit.stopping import SignalError, raising_signals

COMMANDS = {
    "audit": "Audit models, print the verdicts, and leave a record and a report.",
    "plan": "Say what an audit under a policy would read and measure, and how much memory it needs; "
    "nothing is loaded.",
    "locate": "Locate super weights, without any data. Any outcome is an answer: the exit code is 0.",
    "bits": "Flip every bit of the scalars that matter, measure each, and digest their bytes for loaders.",
    "compare-quantizers": "Compare quantizers on one protocol: quality, bits per weight, seconds, memory.",
    "quantize": "Quantize a model by round-to-nearest, with its super weights held out, and write it.",
    "index": "Show the published super weights of a model, or of all models, with their sources.",
    "fingerprint": "Take the short fingerprint of a model's lineage, and say whose descendant it looks like.",
    "bisect": "Find the first checkpoint of a series at which a check turns from pass to fail, by bisection.",
    "diff": "Say what changed from one record to another. Nothing is measured.",
    "sign": "Sign what a record attests: which weights passed which checks, under which policy, text and tool.",
    "verify": "Tell whether a record is what was written, and name every part of it that is not.",
    "merge": "Put the records of several models or machines into one record and one report.",
    "replay": "Measure a record's models again, and say of every verdict whether it reproduces.",
    "cache": "Show what is kept of earlier measurements, or clear it.",
    "render": "Render a record; nothing is measured or judged again.",
    "init": "Write a policy file in which every key stands with its default and its meaning, as a comment.",
    "demo": "Write the specimen, two sound and three broken descendants of it, and a policy that audits them all.",
    "specimen": "Write the specimen, the control, their text and their questions into a folder.",
    "schema": "Print the JSON Schema (draft 2020-12) of policy files and records.",
}
"""The commands with the first sentence of their help; each stands in a file of its name."""

BAD_INPUT = 2
_ALONE = ("--ray",)
"""Options whose value can be left out."""
BROKEN_PIPE = 141
"""What a shell shows for a program whose reader has gone: 128 plus SIGPIPE."""

HELP = """A test suite for model weights.

Finds the handful of scalars that a language model cannot live without, proves by intervention what they do,
and gates every compressed or fine-tuned descendant on still having them.

Exit codes: 0 passed, 1 a check failed, 2 usage or input error, 3 inconclusive, stopped, or nothing
audited or found in the index, 70 an error of sw-audit itself, whose traceback lies in a file
that is named. A command that SIGTERM or SIGHUP ends exits with 143 or 129.
"""


_SETTINGS = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The commands; what they raise on purpose ends in one line and exit code 2, anything else in one and 70."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is called."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            try:
                with raising_signals():
                    return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except AuditError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                typer.echo(f"sw-audit: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            typer.echo("sw-audit: interrupted", err=True)
            ctx.exit(BAD_INPUT)
        except SignalError as ended:
            with suppress(OSError):  # a terminal that is gone is why SIGHUP came
                typer.echo(f"sw-audit: {ended}", err=True)
            ctx.exit(ended.code)
        except BrokenPipeError:
            # What is still buffered would be complained about at exit, when nobody can catch it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except TyperException as error:
            error.message = printable(error.message)
            raise
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.echo(f"sw-audit: {tell_defect(error)}", err=True)
            ctx.exit(DEFECT)


class Command(TyperCommand):
    """A command, in which some options need no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; an option that can stand alone is given an empty value where it does."""
        for place, word in enumerate(args):
            if word in _ALONE and (args[place + 1 :] or ["-"])[0].startswith("-"):
                args = [*args[:place], f"{word}=", *args[place + 1 :]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
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


def load_command(name: str) -> Any:
    """Import a command's module and return the command."""
    words = name.replace("-", "_")
    loaded = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS)
    loaded.command(name, cls=Command)(spread_groups(getattr(import_module(f"sw_audit.cli.{words}"), words)))
    return typer.main.get_command(loaded)


for _name, _sentence in COMMANDS.items():
    app.command(_name, help=_sentence)(lambda: None)


def run() -> None:
    """Run the program on the command line's arguments."""
    app(prog_name="sw-audit")
