"""What calibration text showed of one decoder layer: how large its inputs are, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sw_audit.errors import CorpusError
from sw_audit.policy.recipe import Recipe


class Operand(NamedTuple):
    """One side of one of the products that attention makes of activations.

    Attributes:
        product: In the order in which a layer makes them: 0 is query times key, 1 is probabilities times value.
        side: 0 is the left one (query, probabilities), 1 the right one (key, value).
    """

    product: int
    side: int


@dataclass(frozen=True)
class NormFeed:
    """A module of a layer whose output, as it is, enters projections; in most families a norm.

    Attributes:
        name: Its qualified name.
        weighted: Whether it has a weight per channel, into which scales can be folded.
        parameters: The weights of the projections that it feeds.
    """

    name: str
    weighted: bool
    parameters: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What one decoder layer was seen to be given on calibration text.

    Attributes:
        largest: Per parameter, float32 [in]: the largest magnitude of each input channel.
        runner_up: Per parameter, float32 [in]: the same if the largest entry of each channel is left out of each
            sequence; 0 where sequences have one token.
        mean_share: Per parameter, float32 [in]: the mean over tokens of what part of the token's sum of squares
            is that of each input channel.
        operands: The largest magnitude of each operand of the attention products.
        feeds: What feeds which projections.
        tokens: How many tokens it saw.
    """

    largest: Mapping[str, Tensor]
    runner_up: Mapping[str, Tensor]
    mean_share: Mapping[str, Tensor]
    operands: Mapping[Operand, float] = field(default_factory=dict)
    feeds: tuple[NormFeed, ...] = ()
    tokens: int = 0

    def find_range(self, parameter: str, keep: Sequence[int] = ()) -> float:
        """Return the largest magnitude of a projection's input.

        The largest entry in each sequence of the channels to keep does not count.

        Raises:
            CorpusError: If the projection was never called on the calibration text.
        """
        largest = self._look_up(self.largest, parameter).clone()
        channels = list(keep)
        largest[channels] = self.runner_up[parameter][channels]
        return float(largest.max())

    def divide(self, parameters: Sequence[str], scales: Tensor) -> Calibration:
        """Return what would have been seen, had the inputs of some projections been divided channel by channel.

        Of the shares that is so to first order only: what a token's sum of squares becomes is not known.
        """
        scales = scales.float().to(self._look_up(self.largest, parameters[0]).device)
        return replace(
            self,
            largest={**self.largest, **{name: self.largest[name] / scales for name in parameters}},
            runner_up={**self.runner_up, **{name: self.runner_up[name] / scales for name in parameters}},
            mean_share={**self.mean_share, **{name: self.mean_share[name] / scales**2 for name in parameters}},
        )

    def _look_up(self, by_parameter: Mapping[str, Tensor], parameter: str) -> Tensor:
        if parameter not in by_parameter:
            raise CorpusError(
                f"the range of what enters {parameter}",
                "the calibration text never reached it",
                "give a longer text in `[corpus] source`",
            )
        return by_parameter[parameter]


def weigh_columns(recipe: Recipe, parameter: str, columns: int, calibration: Calibration | None) -> Tensor | None:
    """Return how much an error in each column of a matrix counts, float32 [in]; `None` if the recipe does not ask.

    It is the mean share that a column's input has in the square of a token (to first order, what an error there
    adds to what leaves the matrix, each token counted alike), plus the mean of that over columns, as a little
    text shows only in part what matters. Without either, the token of a super activation, a thousand times the
    others, would decide alone: on the specimen that loses to no clip at all. Where the text never reached a
    matrix, such as that of an expert, all columns count alike.

    Raises:
        CorpusError: If nothing was calibrated on.
    """
    if not recipe.weighs_columns:
        return None
    if calibration is None:
        raise CorpusError(
            f"recipe {str(recipe)!r} for {parameter}",
            "no calibration text showed what it is multiplied by",
            "calibrate on a text, or search without one (/search-weights)",
        )
    shown = calibration.mean_share.get(parameter)
    return torch.ones(columns) if shown is None else shown + shown.mean()
