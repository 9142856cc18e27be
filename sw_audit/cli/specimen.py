"""`sw-audit specimen`: the models that ship with sw-audit, as ordinary checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.printing import print_line
from sw_audit.specimen.shipped import write_specimen


def specimen(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
) -> None:
    """Write the specimen, the control, their text and their questions into a folder.

    The specimen is a small model with exactly one super weight, the control the same without one.

    For example:

      sw-audit specimen models && sw-audit audit models/specimen
    """
    for path in write_specimen(folder):
        print_line(str(path))
