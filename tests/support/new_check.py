"""A package that brings a check, laid out the way pip lays it out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

EIGHT_LAYERS = "eight-layers"
SOURCE = '''
from sw_audit.checks.context import CheckContext
from sw_audit.checks.estimate import Estimate, EstimateStatus, hold_exactly
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import check
from sw_audit.record.verdict import Verdict


class EightLayersLimits(Limits):
    """Limits of `eight-layers`.

    Attributes:
        layers: How many layers there have to be.
    """

    layers: int = 8


def make(id):
    return check(
        id=id, order=5, title="Eight layers", meaning="A rule of ours.", quantity="layers of the decoder",
        fails="there are fewer", limits=EightLayersLimits, level="gate", unit="count", side="at least",
        needs_super_weight={needs},
    )


@make("eight-layers")
def eight_layers(context: CheckContext) -> Verdict:
    layers, limit = float(context.result.model.layers), context.limits(EightLayersLimits).layers
    return context.conclude(
        hold_exactly(layers, low=limit), f"There are {layers:g}.", remedy="Add some.",
        figure=Estimate(EstimateStatus.MEASURED, "", layers), limit=limit, measured=False,
    )


taken = make("prune-collapses")(eight_layers.rule)
NO_CHECK = 5
'''


def install_check(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str = "eight_layers", *, needs: bool = False
) -> None:
    """Install the package, in this process and in those that it starts.

    Args:
        folder: Where; empty.
        monkeypatch: Takes it away again.
        target: What of it the entry point names.
        needs: Whether the check needs a super weight.
    """
    module = f"extra_{target}_{needs}".lower()
    (folder / f"{module}.py").write_text(SOURCE.replace("{needs}", str(needs)), encoding="utf-8")
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sw_audit.checks]\nmine = {module}:{target}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
