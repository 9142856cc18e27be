"""How often an audit reads weights, and how many bytes that is, told before it does."""

from __future__ import annotations

from dataclasses import dataclass

from sw_audit.checkpoint.budget import choose_opening, find_need
from sw_audit.checkpoint.stored import Size, size_checkpoint
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.policy.policy import Policy
from sw_audit.runner.readings import Reading, list_readings
from sw_audit.specimen.shipped import find_shipped


@dataclass(frozen=True)
class Forecast:
    """What a model's audit reads of weights that are in memory only while they are used.

    Attributes:
        stages: Its stages, each with how often it reads the decoder layers.
        least: Bytes, where one step of the text settles every verdict.
        most: Bytes, where no step but the last does.
        streamed: Whether the model itself is read layer by layer; its parent always is.
    """

    stages: tuple[Reading, ...]
    least: int
    most: int
    streamed: bool

    def count(self, *, most: bool) -> int:
        """Count how often the model's decoder layers are read."""
        return sum(stage.model if most else stage.fewest for stage in self.stages)


def forecast_reading(policy: Policy, model: ModelPolicy) -> Forecast | None:
    """Say how often a model's weights, and its parent's, will be read; `None` as long as not all files are here.

    Raises:
        CheckpointError: If a model or its parent is not there, or damaged.
    """
    parent = policy.find_parent(model)
    size, above = _size(model), None if parent is None else _size(parent)
    if size is None or (parent is not None and above is None):
        return None
    beside = 0 if above is None else find_need(above).beside
    streamed = choose_opening(find_need(size), policy.memory, beside).streamed
    stages = list_readings(policy, model)
    least, most = 0, 0
    if streamed:
        least += _add_up(size, [stage.fewest for stage in stages])
        most += _add_up(size, [stage.model for stage in stages])
    if above is not None:
        share = {stage: stage.fewest / stage.model if stage.model else 1 for stage in stages}
        least += _add_up(above, [round(stage.parent * share[stage]) for stage in stages])
        most += _add_up(above, [stage.parent for stage in stages])
    return Forecast(stages, least, most, streamed)


def _add_up(size: Size, times: list[int]) -> int:
    """Return the bytes; what is outside of the layers is mapped once."""
    return sum(times) * size.layers + size.memory - size.layers


def _size(model: ModelPolicy) -> Size | None:
    return size_checkpoint(model.model_copy(update={"source": find_shipped(model.source), "manifest": None}))
