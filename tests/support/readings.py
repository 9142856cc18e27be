"""Counts how often the parts of a model that is read as it runs are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from unittest import mock

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import Pager, Slot, open_streaming
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path

Found = TypeVar("Found")


def find_both_ways(find: Callable[[Checkpoint], Found]) -> tuple[Found, Found, set[int]]:
    """Find something in the specimen as it is read and in memory; say, too, how often each layer was read."""
    policy = ModelPolicy(source=str(specimen_path()))
    streamed, whole = open_streaming(policy), open_checkpoint(policy)
    with count_readings() as readings:
        ours = find(streamed)
    down = {layer.down_projections[0].parameter for layer in streamed.layers}
    return ours, find(whole), {readings[name] for name in down}


@contextmanager
def count_readings() -> Iterator[Counter[str]]:
    """Count how often each tensor of a model is brought into memory."""
    readings: Counter[str] = Counter()
    bring_in = Pager._bring_in

    def count(self: Pager, slots: Sequence[Slot]) -> None:
        readings.update(slot.name for slot in slots)
        bring_in(self, slots)

    with mock.patch.object(Pager, "_bring_in", count):
        yield readings
