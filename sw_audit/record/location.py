"""What locating found: super weights, super activations, how these are made, and what was turned down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from statistics import median
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sw_audit.fact import Fact
from sw_audit.record.address import Index, WeightAddress

Impact = Literal["bearing", "inert", "unconfirmed"]
"""Whether anything depends on a located scalar, as zeroing shows; unconfirmed without such a trial."""
Depth = Literal["full", "early"]
"""How far the locating pass goes through the decoder layers."""


class Outcome(StrEnum):
    """What locating ended with.

    `located`: at most six scalars explain a super activation. `distributed`: there is a massive activation
    that so few scalars do not explain. `none`: there is none.
    """

    LOCATED = "located"
    DISTRIBUTED = "distributed"
    NONE = "none"


class SuperWeight(WeightAddress):
    """A scalar that makes a super activation (Yu et al. 2024, section 3.1).

    Attributes:
        layer: Decoder layer, counted from 0.
        value: The weight.
        share: Part of the super activation that the product `W[row, column] * x[column]` explains.
        impact: Whether zeroing it, alone or with the others of the set, costs anything.
    """

    layer: Index
    value: float
    share: float
    impact: Impact = "unconfirmed"

    @property
    def address(self) -> WeightAddress:
        """Where the scalar is, without what it is like."""
        return WeightAddress(parameter=self.parameter, row=self.row, column=self.column, expert=self.expert)


class TakeDown(Fact):
    """Where a super activation leaves the residual stream.

    Attributes:
        first_layer: First decoder layer that takes a notable part of it away.
        last_layer: Last one that is needed until little of it is left; where much is left, the one after which the
            least is.
        left: Part of it that is left in the output of that layer.
    """

    first_layer: Index
    last_layer: Index
    left: float


class SuperActivation(Fact):
    """A massive activation that rides the residual stream (Sun et al. 2024; Yu et al. 2024, section 3.2).

    Attributes:
        channel: Channel of the residual stream.
        token: Position in the prompt.
        value: Value in the residual stream, the median over the layers it persists through.
        first_layer: First decoder layer whose output holds it.
        last_layer: Last decoder layer whose output holds it.
        taken_down: Where it goes after that; `None` where nothing takes it down, or where that is not known.
    """

    channel: Index
    token: Index
    value: float
    first_layer: Index
    last_layer: Index
    taken_down: TakeDown | None = None


class Stage(SuperActivation):
    """What a super activation's entry carried before: made, taken down, and made again.

    Attributes:
        causes: The scalars that make it, largest share first, the shares being parts of this stage.
    """

    causes: tuple[SuperWeight, ...] = ()


class Candidate(Fact):
    """A scalar, or a spike, that was looked at: what it is, and why it is or is not a super weight.

    Attributes:
        layer: Decoder layer.
        parameter: Qualified name of the down-projection.
        row: Output channel of the spike.
        column: Input channel of the largest product in that output.
        expert: Index of the expert, if experts are fused.
        token: Position in the prompt.
        input_value: The down-projection's input `x[column]` there.
        output_value: The down-projection's output `y[row]` there.
        weight: `W[row, column]`.
        share: Part of the output that the product explains.
        accepted: Whether it is one of the located super weights.
        because: The reason, in words.
    """

    layer: Index
    parameter: str
    row: Index
    column: Index
    expert: Index | None = None
    token: Index
    input_value: float
    output_value: float
    weight: float
    share: float
    accepted: bool
    because: str


class LayerTrace(Fact):
    """What one decoder layer showed on the locating prompt; magnitudes are absolute values.

    Attributes:
        layer: Decoder layer.
        residual: Largest magnitude in the layer's output.
        residual_channel: Its channel.
        residual_token: Its token.
        typical: Median magnitude in the layer's output.
        down_input: Largest magnitude in the down-projection's input, `None` without a down-projection.
        down_output: Largest magnitude in the down-projection's output.
    """

    layer: Index
    residual: float
    residual_channel: Index
    residual_token: Index
    typical: float
    down_input: float | None
    down_output: float | None


class PredictedWeight(WeightAddress):
    """What the weights alone, without a forward pass, say of a located super weight.

    Attributes:
        layer: Decoder layer, counted from 0.
        row_rank: Place of its row among the rows of its down-projection, by the predictor's score; 1 is first.
        rows: How many rows there are.
        column_rank: Place of its column within that row's score.
        columns: How many columns there are.
        row_ratio: Its row's score over the median row's; `None` if the median is zero.
        largest_ratio: The largest row's score over the median row's.
        share: Part of its row's squared score that its column makes.
        agrees: Whether row and column are first, sharing first places with the other located scalars.
    """

    layer: Index
    row_rank: Index
    rows: Index
    column_rank: Index
    columns: Index
    row_ratio: float | None
    largest_ratio: float | None
    share: float | None
    agrees: bool


class WeightNormPrediction(Fact):
    """A second opinion on the located super weights, from the weights alone; it never overrules the first.

    Attributes:
        agrees: Whether it agrees on all of them; `None` if it could not look at all of them.
        because: The same in words.
        weights: What it says of each.
    """

    agrees: bool | None
    because: str
    weights: tuple[PredictedWeight, ...] = ()


class PromptLocation(Fact):
    """What one prompt by itself shows.

    Attributes:
        prompt: The prompt, as text.
        token_ids: The prompt, as the model saw it.
        bos: Whether a BOS token stood before it.
        outcome: Located, distributed or none.
        because: The outcome's reason, in words.
        super_weights: Largest share first.
        super_activations: Largest magnitude first.
    """

    prompt: str
    token_ids: tuple[int, ...]
    bos: bool
    outcome: Outcome
    because: str
    super_weights: tuple[SuperWeight, ...] = ()
    super_activations: tuple[SuperActivation, ...] = ()

    @property
    def addresses(self) -> tuple[WeightAddress, ...]:
        """The addresses of the super weights."""
        return tuple(weight.address for weight in self.super_weights)


class Rotation(Fact):
    """A checkpoint whose weights were multiplied by orthogonal matrices, so that no channel is privileged.

    Attributes:
        declared: Whether its files say so; else its weights look like it, which is a hint and no proof.
        because: What says so, in words.
    """

    declared: bool
    because: str

    def __str__(self) -> str:
        """Write it as a clause, with what follows from it."""
        head = "the checkpoint is rotated" if self.declared else "the checkpoint looks rotated"
        return f"{head}: {self.because}; then published coordinates are absent by design"


class Location(Fact):
    """The answer to "where are the super weights?", from one forward pass on a few prompts.

    A super weight is what most prompts show to be one. The rest is told of one prompt: the first that shows them
    all, else the one that shows most of them.

    Attributes:
        outcome: Located, distributed or none.
        because: The outcome's reason, in words.
        prompt: That prompt, as text.
        token_ids: That prompt, as the model saw it.
        bos: Whether a BOS token was prepended.
        super_weights: Largest share first.
        super_activations: Largest magnitude first.
        earlier_stages: Where a super activation is made more than once: what came before, first to last. The super
            weights are those of the last time.
        rotation: Why the checkpoint is, or looks, rotated: then published coordinates are absent by design. `None`
            where nothing says so.
        candidates: What was looked at.
        trace: One entry per decoder layer.
        depth: Whether the pass went through all decoder layers, or stopped after the early ones; then that super
            activations persist is known for the layers that ran, and no further.
        layers_seen: How many decoder layers ran; `None` in records that do not say, where all did.
        weight_norm_prediction: A second opinion from the weights alone; `None` if nothing was located or asked.
        prompts: What each prompt by itself shows; none where there was one prompt.
        other_start: The same with a BOS token where none was prepended, or without where one was, of each prompt;
            none where the tokenizer defines no BOS token, or records do not say.
    """

    outcome: Outcome
    because: str
    prompt: str
    token_ids: tuple[int, ...]
    bos: bool
    super_weights: tuple[SuperWeight, ...]
    super_activations: tuple[SuperActivation, ...]
    candidates: tuple[Candidate, ...]
    trace: tuple[LayerTrace, ...]
    depth: Depth = "full"
    layers_seen: Index | None = None
    weight_norm_prediction: WeightNormPrediction | None = None
    earlier_stages: tuple[Stage, ...] = ()
    rotation: Rotation | None = None
    prompts: tuple[PromptLocation, ...] = ()
    other_start: tuple[PromptLocation, ...] = ()

    @property
    def addresses(self) -> tuple[WeightAddress, ...]:
        """The addresses of the super weights."""
        return tuple(weight.address for weight in self.super_weights)

    @property
    def addresses_of_some(self) -> tuple[WeightAddress, ...]:
        """What only some of the prompts show, not most."""
        own = [address for prompt in self.prompts for address in prompt.addresses]
        return tuple(address for address in dict.fromkeys(own) if address not in self.addresses)

    @property
    def addresses_of_other_start(self) -> tuple[WeightAddress, ...]:
        """What most prompts show where they begin the other way."""
        return find_common(self.other_start)

    @property
    def start_matters(self) -> bool:
        """Whether another set is located where prompts begin the other way."""
        return bool(self.other_start) and set(self.addresses_of_other_start) != set(self.addresses)

    @property
    def impacts(self) -> str | None:
        """What depends on the super weights, in words; `None` where nobody tried, or none is located."""
        counts = Counter(weight.impact for weight in self.super_weights)
        if counts["unconfirmed"] == len(self.super_weights):
            return None
        return f"located super weights: {', '.join(f'{number} {impact}' for impact, number in counts.items())}"

    @property
    def agreement(self) -> str | None:
        """What the prompts agree on, in words; `None` where there was one."""
        if not self.prompts:
            return None
        different = [prompt for prompt in self.prompts if set(prompt.addresses) != set(self.addresses)]
        if not different:
            return f"{len(self.prompts)} prompts show the same"
        shown = "; ".join(f"{prompt.prompt!r} shows {_name_set(prompt.addresses)}" for prompt in different)
        return f"{len(different)} of {len(self.prompts)} prompts show something else: {shown}"

    @property
    def beginning(self) -> str | None:
        """What a BOS token changes, in words; `None` where there is none to try."""
        if not self.other_start:
            return None
        done, other = ("with", "without") if self.bos else ("without", "with")
        same = "the same is located" if not self.start_matters else "another set is located: "
        what = _name_set(self.addresses_of_other_start) if self.start_matters else ""
        return f"prompts begin {done} a BOS token; {other} one {same}{what}"


def _name_set(addresses: Sequence[WeightAddress]) -> str:
    return ", ".join(map(str, addresses)) or "no super weight"


def find_common(prompts: Sequence[PromptLocation]) -> tuple[WeightAddress, ...]:
    """Return the super weights that more than half of the prompts show, in the order in which they are seen."""
    seen = Counter(address for prompt in prompts for address in prompt.addresses)
    return tuple(address for address, count in seen.items() if 2 * count > len(prompts))


class PromptTrace(Fact):
    """A super activation's channel, followed through the layers on one prompt.

    Attributes:
        prompt: The prompt, as text.
        tokens: Length of the prompt in tokens, BOS included.
        channel: The channel that is followed.
        peaks: Per decoder layer, the token at which the channel is largest.
        values: Per decoder layer, the value there; `None` where it is not finite.
        ranks: Per decoder layer, how many other channels are larger at that token (0: it is the largest).
    """

    prompt: str
    tokens: Index
    channel: Index
    peaks: tuple[Index, ...]
    values: tuple[float | None, ...]
    ranks: tuple[Index, ...]


Share = Annotated[float, Field(ge=0, le=1)]


class Contribution(Fact):
    """One entry of the residual stream in one layer, as a sum.

    `skip + attention + mlp` is `leaving`, up to the rounding of the model's own dtype.

    Attributes:
        skip: What the skip connection brings: the entry as it comes into the layer.
        attention: What the block that mixes tokens adds; `None` where that cannot be told (a norm over the sum).
        mlp: What the MLP adds; `None` likewise.
        leaving: The entry as it leaves the layer.
    """

    skip: float
    attention: float | None = None
    mlp: float | None = None
    leaving: float

    @property
    def added(self) -> float:
        """What both blocks add together."""
        return self.leaving - self.skip


class LayerMechanism(Fact):
    """One decoder layer, as the model is and with its super weights zeroed.

    Attributes:
        layer: Decoder layer.
        intact: The super activation's entry, as the model is.
        pruned: The same entry with the super weights zeroed.
        attended: Attention that rests on the super activation's token, the mean over heads and over the later
            tokens of the prompt; `None` where the layer gives no attention weights or no token follows.
        attended_pruned: The same with the super weights zeroed.
    """

    layer: Index
    intact: Contribution
    pruned: Contribution
    attended: Share | None = None
    attended_pruned: Share | None = None

    @property
    def dampened(self) -> float | None:
        """Part of the entry's magnitude that pruning takes away; `None` where there is nothing to take."""
        return 1 - abs(self.pruned.leaving) / abs(self.intact.leaving) if self.intact.leaving else None


class Mechanism(Fact):
    """One super activation, followed through the layers on the locating prompt.

    Attributes:
        channel: Channel of the residual stream.
        token: Position in the prompt.
        first_layer: First decoder layer whose output holds the super activation.
        last_layer: Last decoder layer whose output holds it.
        layers: One entry per decoder layer.
    """

    channel: Index
    token: Index
    first_layer: Index
    last_layer: Index
    layers: tuple[LayerMechanism, ...]

    @model_validator(mode="after")
    def _lies_inside(self) -> Self:
        if not self.first_layer <= self.last_layer < len(self.layers):
            raise ValueError(f"layers {self.first_layer} to {self.last_layer} of {len(self.layers)}")
        return self

    @property
    def carried(self) -> Share | None:
        """Part of the super activation that skip connections alone carry from layer to layer.

        Over the layers after the first that holds it, to the last: the least that `skip` is of `leaving`, at
        most 1; `None` where it does not ride through a second layer.
        """
        riding = self.layers[self.first_layer + 1 : self.last_layer + 1]
        shares = [layer.intact.skip / layer.intact.leaving for layer in riding if layer.intact.leaving]
        return min(max(min(shares), 0.0), 1.0) if shares else None

    @property
    def dampened(self) -> float | None:
        """Part of the super activation that pruning takes away: the median over the layers that hold it."""
        holding = self.layers[self.first_layer : self.last_layer + 1]
        values = [layer.dampened for layer in holding if layer.dampened is not None]
        return median(values) if values else None


class BreakingPrompt(Fact):
    """The shortest prompt that was found on which a super activation does not stay as it was located.

    Attributes:
        prompt: The prompt, as text.
        token_ids: The prompt, as the model saw it.
        because: What it breaks first, in words.
        traces: The super activations' channels on it, one each.
    """

    prompt: str
    token_ids: tuple[Index, ...] = Field(min_length=1)
    because: str
    traces: tuple[PromptTrace, ...] = Field(min_length=1)


class PromptSearch(Fact):
    """A search for such a prompt among random ones.

    Attributes:
        examples: How many prompts were tried at most, at each length that was asked for; 0 is no search.
        tolerance: Relative deviation from the located magnitude that was allowed in it.
        found: The prompt, shrunk; `None` if none turned up.
        omitted: Why there was no search.
        stopped: Why the search could not be ended, such as a prompt on which the model is not finite.
    """

    examples: Index
    tolerance: float = Field(ge=0)
    found: BreakingPrompt | None = None
    omitted: str | None = None
    stopped: str | None = None
