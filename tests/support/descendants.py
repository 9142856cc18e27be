"""Descendants of the specimen, as many as are wanted."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from support.checkpoints import rewrite_weights

from sw_audit.specimen.descendants import SUPER_WEIGHT
from sw_audit.specimen.shipped import specimen_path


def write_descendants(folder: Path, count: int, head: str = "") -> Path:
    """Write descendants, no two of them alike and every third without its super weight, and a policy of them all.

    `head` is how the policy begins. Returns the policy's path.
    """
    name, row, column = SUPER_WEIGHT
    models = []
    for number in range(count):

        def change(tensors: dict[str, torch.Tensor], number: int = number) -> None:
            tensors[name] *= 1 + number / 1024
            if number % 3 == 2:
                tensors[name][row, column] = 0

        place = folder / f"tune-{number}"
        shutil.copytree(specimen_path(), place)
        rewrite_weights(place, change)
        models.append(f'[[model]]\nsource = "{place.name}"\nparent = "specimen"\n')
    policy = folder / "fleet.swaudit.toml"
    policy.write_text("\n".join([head, *models]))
    return policy
