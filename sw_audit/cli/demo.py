"""`sw-audit demo`: what a passing and a failing gate look like, to try it out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sw_audit.cli.printing import print_line
from sw_audit.specimen.descendants import DESCENDANTS, write_demo


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
) -> None:
    """Write the specimen, two sound and three broken descendants of it, and a policy that audits them all.

    Nothing is fetched. The audit of them exits with code 1: it passes the sound ones and fails the others.

    For example:

      sw-audit demo d && sw-audit audit d/policy.swaudit.toml
    """
    policy, *folders = write_demo(folder)
    stories = {descendant.name: " ".join(descendant.story.split()) for descendant in DESCENDANTS}
    for written in folders:
        print_line(f"{written}: {stories.get(written.name, 'The parent: a model with exactly one super weight.')}")
    print_line(f"{policy}: run `{shlex.join(['sw-audit', 'audit', str(policy)])}`")
