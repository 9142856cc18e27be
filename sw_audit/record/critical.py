"""Scalars that a model depends on, wherever they are: each one that was tried, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.policy.policy import Intervention
from sw_audit.record.address import Index, ScalarAddress
from sw_audit.record.location import Impact

CriticalKind = Literal["alone", "together", "masks"]
_WAYS: dict[CriticalKind | None, str] = {
    "alone": "alone",
    "together": "only together",
    "masks": "by masking the damage of the located set",
}


class Effect(Fact):
    """What an intervention does to perplexity.

    Attributes:
        ratio: Perplexity with it over perplexity without; `None` if it is not finite.
        low: Lower end of its interval, corrected for the number of questions; `None` if there is none.
        high: Upper end likewise.
        windows: On how many windows.
    """

    ratio: float | None
    low: float | None = None
    high: float | None = None
    windows: Index


class CriticalScalar(Fact):
    """A scalar that was tried by itself, or in a set that matters.

    Attributes:
        address: Which one; of tied parameters the first name.
        value: Its value as it is stored.
        applied: Its value as the layer applies it, where that is another: of a gain that is stored less 1.
        layer: Decoder layer; `None` outside of them.
        size: Scalars of the parameter that it is one of.
        rank: Its place among all scalars by the gradient, 1 first; `None` if it came from elsewhere.
        located: Whether it is one of the located super weights.
        kind: `alone`: zeroing it costs at least the limit. `together`: only with the others of its set. `masks`:
            zeroing it makes less of the damage of its set. `None`: it does not matter.
        effect: It alone, zeroed; `None` if it was tried in sets only.
        others: It alone, under the other interventions that were asked for.
        set: Number of its set in `CriticalSearch.sets`, counted from 0.
    """

    address: ScalarAddress
    value: float
    applied: float | None = None
    layer: Index | None = None
    size: Index = 1
    rank: Index | None = None
    located: bool = False
    kind: CriticalKind | None = None
    effect: Effect | None = None
    others: dict[Intervention, Effect] = Field(default_factory=dict)
    set: Index | None = None


class CriticalSet(Fact):
    """Scalars that were zeroed together.

    Attributes:
        kind: `located`: the located super weights. `together`: they matter only together. `masks`: they reduce
            the damage of the located set.
        members: Which scalars.
        effect: All of them zeroed; of `masks` with the located set, over the located set by itself.
    """

    kind: Literal["located", "together", "masks"]
    members: tuple[ScalarAddress, ...]
    effect: Effect


class CriticalSearch(Fact):
    """A search for the scalars of a model that matter, among all its parameters.

    Attributes:
        text: What the text is called that effects were measured on.
        own_text: Whether the model wrote it, for there was none.
        window: Tokens in each window.
        windows: How many windows there were.
        minimum_ratio: What counts: at least so many times the perplexity.
        confidence: Of all intervals together.
        ranked: How many scalars the gradient ranked.
        candidates: How many were tried, alone or in groups.
        questions: How many different interventions were measured.
        tokens: Tokens that were run for them, over all interventions.
        scalars: Those that were tried alone or are in a set that matters; largest effect first.
        sets: Sets that were zeroed together; the located set first, if there is one, then those that matter.
        lead: The perplexity with the costliest other scalar zeroed over that with the costliest located one, each
            alone; `None` where there is none of either.
        impacts: Of each located super weight, by its address as text, whether anything depends on it.
        notes: What a reader should know, such as parameters that no gradient reaches.
    """

    text: str
    own_text: bool = False
    window: Index
    windows: Index
    minimum_ratio: float
    confidence: float
    ranked: Index
    candidates: Index
    questions: Index = 0
    tokens: Index = 0
    scalars: tuple[CriticalScalar, ...] = ()
    sets: tuple[CriticalSet, ...] = ()
    lead: Effect | None = None
    impacts: dict[str, Impact] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def critical(self) -> tuple[CriticalScalar, ...]:
        """The scalars that matter."""
        return tuple(scalar for scalar in self.scalars if scalar.kind is not None)

    @property
    def located(self) -> CriticalSet | None:
        """The located super weights, zeroed together; `None` if nothing was located."""
        return next((one for one in self.sets if one.kind == "located"), None)

    @property
    def costliest(self) -> CriticalScalar | None:
        """The scalar that costs most alone; `None` if none matters alone."""
        return next((scalar for scalar in self.critical if scalar.kind == "alone"), None)

    @property
    def summary(self) -> str:
        """How many candidates matter, and on which text, in words."""
        text = "text that the model wrote itself" if self.own_text else self.text
        windows = f"{self.windows} window{'' if self.windows == 1 else 's'} of {self.window} tokens"
        critical = self.critical
        if not critical:
            found = f"is known to multiply perplexity by {self.minimum_ratio:g} or more"
            return f"on {text} ({windows}) none of {self.candidates} candidates {found}"
        counts = Counter(scalar.kind for scalar in critical)
        ways = ", ".join(f"{counts[kind]} {way}" for kind, way in _WAYS.items() if counts[kind])
        verb = "matters" if len(critical) == 1 else "matter"
        return f"on {text} ({windows}) {len(critical)} of {self.candidates} candidates {verb}: {ways}"

    def list_critical(self, addresses: Iterable[ScalarAddress] = ()) -> tuple[ScalarAddress, ...]:
        """Return where the scalars are that matter, and others that are given, each once."""
        return tuple(dict.fromkeys([*addresses, *(scalar.address for scalar in self.critical)]))
