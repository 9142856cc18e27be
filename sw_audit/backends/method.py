"""One way of another library to quantize: what it is called, what it needs, what it does to a projection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version
from torch import Tensor, nn

from sw_audit.backends.costs import ProcessMeter
from sw_audit.record.identity import find_version

if TYPE_CHECKING:
    # Opening imports transformers, and that imports the very libraries whose names are asked for here.
    from sw_audit.checkpoint.opening import Checkpoint


@dataclass(frozen=True)
class Packed:
    """What a library made of one projection.

    Attributes:
        module: Is called instead of the projection.
        tensors: What it stores in place of the weight, scales and codebooks included.
    """

    module: nn.Module
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """A whole model to quantize.

    Attributes:
        checkpoint: The model, open; it may be changed.
        folder: Where its files are.
        calibration: Token ids, int64 [windows, tokens].
        seed: Of everything that is drawn.
        saved: An empty folder for what the library writes.
        meter: Is entered while the library quantizes, and not while files are written.
    """

    checkpoint: Checkpoint
    folder: Path
    calibration: Tensor
    seed: int
    saved: Path
    meter: ProcessMeter


Pack = Callable[[nn.Linear], Packed]
"""Quantizes one projection; it must leave the weight that it is given as it is."""

Train = Callable[[Task], Mapping[str, Tensor]]
"""Quantizes a whole model, saves it packed, and returns its parameters, by the names that they had before, at the
values that the codes stand for."""

_LONGEST = 200
GROUP = 64
"""Weights that share a scale wherever a library leaves it to its caller, so that all are compared at one size."""


@dataclass(frozen=True)
class Method:
    """One quantizer of one library; either `pack` or `train` is there.

    Attributes:
        name: What it is called, such as `bitsandbytes-nf4`.
        package: What pip installs.
        minimum: Oldest version that it is known to work with.
        order: Where its rows stand in a table: lower ones first.
        what: What it is, one clause.
        settings: How it is used here, one clause.
        pack: Quantizes projection by projection.
        train: Quantizes a whole model on calibration text, in a process of its own.
    """

    name: str
    package: str
    minimum: str
    order: int
    what: str
    settings: str
    pack: Pack | None = None
    train: Train | None = None

    @property
    def calibrates(self) -> bool:
        """Whether it looks at text."""
        return self.train is not None


REGISTERED: list[Method] = []


def register(*methods: Method) -> None:
    """Make the methods of a library known; its file calls this when it is imported."""
    REGISTERED.extend(methods)


def find_obstacle(method: Method) -> str | None:
    """Say in one line why a method cannot be run here; `None` if nothing is known to stand in its way."""
    installed = find_version(method.package)
    remedy = f"pip install '{method.package}>={method.minimum}'"
    if installed is None:
        return f"{method.package} is not installed ({remedy})"
    if Version(installed) < Version(method.minimum):
        return f"{method.package} {installed} is older than {method.minimum} ({remedy})"
    return None


def describe_failure(error: BaseException) -> str:
    """Describe an exception in one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
