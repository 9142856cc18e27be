"""Counts how often the parts of a model that is read as it runs are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor

from sw_audit.checkpoint.streaming import MappedFiles


@contextmanager
def count_readings() -> Iterator[Counter[str]]:
    """Count how often each tensor of the files is mapped."""
    readings: Counter[str] = Counter()
    mapped = MappedFiles.map_tensors

    def count(self: MappedFiles, names: Iterable[str]) -> dict[str, Tensor]:
        tensors = mapped(self, names)
        readings.update(tensors.keys())
        return tensors

    with mock.patch.object(MappedFiles, "map_tensors", count):
        yield readings
