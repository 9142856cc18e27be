"""Experts of a mixture: where tokens are routed, which are zeroed, and what a descendant's files hold of them."""

from __future__ import annotations

from typing import Literal

from sw_audit.fact import Fact
from sw_audit.record.address import Index

PerExpert = tuple[float | None, ...]


class RoutedLayer(Fact):
    """Where the tokens of a text were routed in one decoder layer.

    Attributes:
        layer: Decoder layer.
        tokens: Per expert, how many tokens were routed to it.
        weights: Per expert, the sum of its routing weights over these tokens; `None` where it cannot be seen.
        peaks: Per expert, the largest magnitude that left its down-projection, before the routing weight; `None`
            where no token was routed to it, or it is not finite.
    """

    layer: Index
    tokens: tuple[Index, ...]
    weights: PerExpert
    peaks: PerExpert

    @property
    def unreached(self) -> tuple[int, ...]:
        """The experts that no token was routed to."""
        return tuple(expert for expert, count in enumerate(self.tokens) if not count)

    def share(self, expert: int) -> float | None:
        """Return an expert's part of all routing weight of the layer, 0 to 1; `None` where it cannot be seen."""
        seen = [weight for weight in self.weights if weight is not None]
        own, total = self.weights[expert], sum(seen)
        return None if own is None or len(seen) < len(self.weights) or total <= 0 else own / total

    def __add__(self, other: RoutedLayer) -> RoutedLayer:
        """Join the routing of two texts."""
        pairs = list(zip(self.weights, other.weights, strict=True))
        return RoutedLayer(
            layer=self.layer,
            tokens=tuple(map(int.__add__, self.tokens, other.tokens)),
            weights=tuple(None if one is None or more is None else one + more for one, more in pairs),
            peaks=tuple(map(_join_peaks, self.tokens, self.peaks, other.tokens, other.peaks)),
        )


def join_routing(first: tuple[RoutedLayer, ...], second: tuple[RoutedLayer, ...]) -> tuple[RoutedLayer, ...]:
    """Join the routing of two texts, layer by layer; what was not seen in one is not known of both."""
    others = {layer.layer: layer for layer in second}
    return tuple(layer + others[layer.layer] for layer in first if layer.layer in others)


def _join_peaks(count: int, peak: float | None, more: int, other: float | None) -> float | None:
    reached = [one for tokens, one in ((count, peak), (more, other)) if tokens]
    finite = [peak for peak in reached if peak is not None]
    return max(finite) if finite and len(finite) == len(reached) else None


class ExpertAddress(Fact):
    """One expert.

    Attributes:
        layer: Decoder layer.
        number: Which expert of the layer, counted from 0.
        parameter: Qualified name of its down-projection, such as `model.layers.2.mlp.experts.down_proj`.
        expert: Which of the experts that are fused into that parameter; `None` where it has one of its own.
    """

    layer: Index
    number: Index
    parameter: str
    expert: Index | None = None

    def __str__(self) -> str:
        return f"layer {self.layer}, expert {self.number}"


Mark = Literal["super-weight", "critical-scalar", "output"]
"""Why an expert is tried: it holds a super weight or a critical scalar, or what leaves it stands out."""


class TriedExpert(Fact):
    """An expert that is zeroed.

    Attributes:
        address: Which one.
        marks: Why; empty of a control.
        tokens: How many tokens of the text that it was chosen on were routed to it.
        peak: The largest magnitude that left its down-projection there; `None` if no token reached it, or it is
            not finite.
    """

    address: ExpertAddress
    marks: tuple[Mark, ...] = ()
    tokens: Index
    peak: float | None = None

    @property
    def is_control(self) -> bool:
        """Whether it was drawn to be compared with."""
        return not self.marks


class ExpertStudy(Fact):
    """Which experts of a mixture are zeroed, and what they were chosen by.

    Attributes:
        experts: Number of experts in all layers.
        windows: Windows of the scored text that they were chosen on, the first ones.
        tokens: How many tokens these hold.
        percentile: The 99.5th percentile of the experts' largest outputs; `None` where none could be seen.
        largest: The largest of them.
        last_layer: Outputs of later layers do not mark an expert, for no super activation is made there; `None`
            where none was located, and every layer counts.
        marked: How many experts are marked; no more than the policy allows are tried.
        tried: Those that are zeroed: marked ones, then controls.
        calibration: Where the text was routed that acts learn from; empty where none does.
    """

    experts: Index
    windows: Index = 0
    tokens: Index = 0
    percentile: float | None = None
    largest: float | None = None
    last_layer: Index | None = None
    marked: Index = 0
    tried: tuple[TriedExpert, ...] = ()
    calibration: tuple[RoutedLayer, ...] = ()


class SiblingExperts(Fact):
    """One matrix of each expert of a layer, in a descendant's files and in its parent's.

    Attributes:
        name: What the files call them, with `*` for the expert's number.
        count: How many experts there are.
        usual: The median of their errors, but for those that are stored as plain numbers among codes: the norm of
            the difference over the norm of the parent's. `None` where none could be compared.
        worst: The experts with the largest errors, the largest first, each with its error; `None` where that is
            not finite.
        unquantized: The experts that are stored as plain numbers, though most others are codes and no pattern of
            the configuration leaves them out.
        left_out: Likewise those that a pattern leaves out.
    """

    name: str
    count: Index
    usual: float | None = None
    worst: tuple[tuple[Index, float | None], ...] = ()
    unquantized: tuple[Index, ...] = ()
    left_out: tuple[Index, ...] = ()


class ExpertScale(Fact):
    """A stored scale of what enters one expert, beside those of its siblings.

    Attributes:
        name: The tensor's name.
        value: Its largest magnitude; `None` where it is not finite.
        usual: The median of its siblings'.
    """

    name: str
    value: float | None
    usual: float


class ComparedExperts(Fact):
    """The experts in a descendant's files beside its parent's.

    Attributes:
        experts: How many there are, in all layers; 0 of a dense model.
        compared: How many matrices were held against the parent's.
        siblings: Of each layer and matrix of its experts.
        scales: Scales of activations that are not like those of their siblings: zero, not finite, or a thousand
            times more or less.
        because: Why they were not compared, a clause; empty if they were.
    """

    experts: Index = 0
    compared: Index = 0
    siblings: tuple[SiblingExperts, ...] = ()
    scales: tuple[ExpertScale, ...] = ()
    because: str = ""
