"""`sw-audit init`: a policy file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.printing import print_line
from sw_audit.errors import OutputError
from sw_audit.policy.writing import commented_policy
from sw_audit.record.store import write_text


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path("audit.swaudit.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")] = False,
) -> None:
    """Write a policy file in which every key stands with its default and its meaning, as a comment.

    For example:

      sw-audit init

      sw-audit init llama.swaudit.toml
    """
    if file.exists() and not force:
        raise OutputError(f"output {file}", "it exists already", "name another file, or overwrite it with --force")
    write_text(file, commented_policy())
    print_line(f"wrote {file}: name your model in it, then run `sw-audit audit {file}`")
