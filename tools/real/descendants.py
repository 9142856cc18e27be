"""Descendants of any model, sound and broken: rounded, clipped, with super weights or another scalar changed.

The super weights are those that the locator finds. To make them of a checkpoint:

    python -m tools.real.descendants MODEL FOLDER [NAME ...]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.parameters import find_parameter
from sw_audit.checkpoint.suppress_output import quiet_libraries
from sw_audit.errors import CheckpointError, InputError
from sw_audit.export.checkpoint import ExportOrder, export_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import ScalarAddress
from sw_audit.record.store import whole_folder
from sw_audit.runner.single import locate_model
from sw_audit.specimen.shipped import find_shipped

ROUNDED: Mapping[str, str] = MappingProxyType(
    {"int8-g64": "int8/group64", "int4-g32": "int4/group32", "clipped": "int4/group32/z3"}
)
"""Recipes by name; the last clips each group at three standard deviations, as people do to tame outliers."""
SCALED: Mapping[str, float] = MappingProxyType({"halved": 0.5, "zeroed": 0.0})
"""What the located super weights are multiplied by, by name."""


def make_descendants(
    model: ModelPolicy,
    folder: Path,
    names: Collection[str] = (*ROUNDED, *SCALED),
    halved: Mapping[str, ScalarAddress] = MappingProxyType({}),
) -> Iterator[Path]:
    """Write descendants of a model as checkpoints below a folder, in the dtype that it opens in; yield each.

    Args:
        model: The model.
        folder: Where they are written.
        names: Which ones.
        halved: By further names, each a scalar of any parameter that is half of what it was.

    Raises:
        InputError: If the model cannot be opened, or a checkpoint cannot be written.
    """
    source = CheckpointFolder.require(model)
    checkpoint = open_checkpoint(model)
    located = locate_model(checkpoint).super_weights
    weights = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*names, *halved):
        checkpoint.model.load_state_dict(weights)
        if name in ROUNDED:
            order = ExportOrder(parse_recipe(ROUNDED[name]), because="its gate is to see what rounding does")
            export_checkpoint(checkpoint, order, folder / name, source)
        elif name in halved:
            _write_scaled(checkpoint, [halved[name]], 0.5, folder / name)
        else:
            _write_scaled(checkpoint, [weight.scalar for weight in located], SCALED[name], folder / name)
        yield folder / name


def _write_scaled(checkpoint: Checkpoint, scalars: Iterable[ScalarAddress], factor: float, folder: Path) -> None:
    for scalar in scalars:
        parameter = find_parameter(checkpoint, scalar.parameter)
        if parameter is None:
            raise CheckpointError(str(scalar), "the model has no such parameter", "name one that it has")
        parameter.weight[scalar.index] *= factor
    with whole_folder(folder) as draft, quiet_libraries():
        checkpoint.model.save_pretrained(draft)
        checkpoint.tokenizer.save_pretrained(draft)


if __name__ == "__main__":
    chosen = sys.argv[3:] or (*ROUNDED, *SCALED)
    try:
        for written in make_descendants(ModelPolicy(source=find_shipped(sys.argv[1])), Path(sys.argv[2]), chosen):
            sys.stdout.write(f"{written}\n")
    except InputError as error:
        sys.exit(str(error))
