"""The thresholds of the locator, each with its reason; all are relative, none names a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocatorSettings:
    """What counts as a super activation and as its cause.

    Attributes:
        prominence: A super activation is at least so many times the median magnitude of its layer's output.
            Ordinary residual streams reach about 5 (Gaussian) to 15 (with outlier channels) in small models;
            published super activations are hundreds to thousands of times the median.
        constancy: While it persists, its magnitude stays within this factor of its own median over layers.
            Published values are constant to a few percent in the middle of the model.
        early: It appears within this part of the layers. The deepest published cause sits at 9 of 42 layers.
        early_reading: Where only the early layers are read, they are this part of the layers: the deepest
            published cause lies in them, and what proves it.
        early_beyond: The last of these so many must hold it unchanged: they are the proof that it persists.
        late: It persists to at least this part of the layers: the last blocks remove it.
        relative_share: A product explaining less than this part of what the largest one explains is no cause.
        relative_height: Beside the largest super activation, one lower than this part of it does not count: its
            hot input makes lesser spikes of ordinary weights on its column (OLMo-1B's [623, 1710] is 0.093 of
            the super weight beside it, and inert).
        explained: Together the super weights explain at least this part of the super activation; below it
            the spike is distributed. A replication finds products explaining 0.59 and 0.76 of true hits.
        quiet_share: A control in a super weight's row adds less than this part of the channel's largest magnitude:
            six of them then move it by less than it moves by itself from layer to layer (SmolLM2: 1.2 %).
        maximum_count: At most so many scalars are a set of super weights (Yu et al. 2024, section 3.1).
    """

    prominence: float = 8.0
    constancy: float = 2.0
    early: float = 0.5
    early_reading: float = 0.25
    early_beyond: int = 1
    late: float = 0.75
    relative_share: float = 0.2
    relative_height: float = 0.1
    explained: float = 0.5
    quiet_share: float = 0.001
    maximum_count: int = 6


DEFAULT_SETTINGS = LocatorSettings()
