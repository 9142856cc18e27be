"""A descendant beside its parent: what was kept, what it costs, and what putting parts back recovers."""

from __future__ import annotations

from pydantic import Field

from sw_audit.fact import Fact
from sw_audit.record.address import Index, ScalarAddress, WeightAddress
from sw_audit.record.arm import Purpose
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.identity import ModelIdentity, Protocol
from sw_audit.record.location import Location
from sw_audit.record.maps import ActivationMap, Neighbourhood
from sw_audit.record.measurement import Look, Measurement, label_continuation


class RetainedWeight(Fact):
    """One of the parent's super weights, there and here.

    Attributes:
        address: Which scalar.
        layer: Decoder layer.
        parent: Value in the parent.
        value: Effective value in the descendant; `None` if it cannot be read or is not finite.
        finite: Whether it is finite, where it can be read.
        row_error: Of the rest of its row, norm of the difference over norm of the parent's; `None` if unknown.
        column_error: Likewise of the rest of its column.
        parent_neighbourhood: What is around it in the parent; `None` where the descendant has no such matrix, and
            in records of before it was kept.
        neighbourhood: What is around it in the descendant, likewise.
    """

    address: WeightAddress
    layer: Index
    parent: float
    value: float | None
    finite: bool = True
    row_error: float | None = None
    column_error: float | None = None
    parent_neighbourhood: Neighbourhood | None = None
    neighbourhood: Neighbourhood | None = None

    @property
    def relative_error(self) -> float | None:
        """(value - parent) / |parent|; `None` where the value is missing."""
        return None if self.value is None or not self.parent else (self.value - self.parent) / abs(self.parent)


class RetainedScalar(Fact):
    """One of the parent's critical scalars, there and here; or one of a baseline's, then and now.

    Attributes:
        address: Which scalar, by its name in the parent.
        parent: Value in the parent, as it is applied.
        value: Effective value in the descendant, likewise; `None` if it cannot be read or is not finite.
        finite: Whether it is finite, where it can be read.
    """

    address: ScalarAddress
    parent: float
    value: float | None
    finite: bool = True

    @property
    def relative_error(self) -> float | None:
        """(value - parent) / |parent|; `None` where the value is missing."""
        return None if self.value is None or not self.parent else (self.value - self.parent) / abs(self.parent)


class RetainedActivation(Fact):
    """One of the parent's super activations on the locating prompt, there and here.

    Attributes:
        channel: Channel of the residual stream.
        token: Position in the prompt.
        layers: The decoder layers it persists through in the parent.
        parent: Its value after each of these layers in the parent.
        value: Likewise in the descendant, at the same channel and token; `None` where not finite.
        loudest: Per layer, whether in the descendant the channel is the largest at that token.
        sink_parent: Attention that later tokens give to that token, mean over layers and heads; `None` if unknown.
        sink: Likewise in the descendant.
    """

    channel: Index
    token: Index
    layers: tuple[Index, ...]
    parent: tuple[float, ...]
    value: tuple[float | None, ...]
    loudest: tuple[bool, ...]
    sink_parent: float | None = None
    sink: float | None = None


class LayerError(Fact):
    """How far a layer's output is from the parent's.

    Attributes:
        layer: Decoder layer.
        signal: Sum of squares of the parent's residual stream after it, over scored tokens.
        noise: Sum of squares of the difference; `None` if not finite.
        own_noise: Sum of squares of the difference that this layer alone makes: the descendant's layer on the
            parent's input; `None` where not measured or not finite.
        down_input: Largest magnitude that enters the descendant's down-projection; `None` if absent or not finite.
        down_output: Largest magnitude that leaves it.
        finite: Whether all that enters and leaves it is finite, where it can be seen.
    """

    layer: Index
    signal: float
    noise: float | None
    own_noise: float | None = None
    down_input: float | None = None
    down_output: float | None = None
    finite: bool = True


class ComparedText(Fact):
    """Parent and descendant on one text.

    Attributes:
        protocol: How figures were measured.
        measurements: The parent's, the descendant's, then with parts put back; agreement is with the parent. In
            steps of evidence each has the windows of the steps that were asked of it, the first ones.
        looks: How many windows each step of evidence reaches; empty where all was measured at once.
    """

    protocol: Protocol
    measurements: tuple[Measurement, ...]
    looks: tuple[Look, ...] = ()

    def at_look(self, look: int) -> ComparedText:
        """Return what was known after a step of evidence, counted from 0."""
        if not self.looks:
            return self
        reach = self.looks[min(look, len(self.looks) - 1)]
        measurements = tuple(measured.first(reach.windows, reach.items) for measured in self.measurements)
        return self.model_copy(update={"measurements": measurements})

    def measured(self, arm: Purpose | str) -> Measurement | None:
        """Return the measurement of the arm with that purpose, or of that name, if it was measured."""
        return next((measured for measured in self.measurements if measured.arm.name == str(arm)), None)


class Continuation(Fact):
    """What both models go on with after one prompt, greedily.

    Attributes:
        prompt: The prompt, as text.
        tokens: Its length in tokens.
        parent: The parent's new tokens.
        descendant: The descendant's; `None` in place of a token where logits were not finite ends it.
        parent_text: The parent's, as text.
        descendant_text: The descendant's, as text.
        finite: Whether all the descendant's logits were finite.
    """

    prompt: str
    tokens: Index
    parent: tuple[int, ...]
    descendant: tuple[int, ...]
    parent_text: str = ""
    descendant_text: str = ""
    finite: bool = True

    @property
    def label(self) -> str:
        """How it is called among the continuations of a model."""
        return label_continuation(self.tokens, len(self.parent))


class AnswerLength(Fact):
    """How long both models' answers to one chat prompt are, decoded greedily.

    Attributes:
        prompt: The prompt, without the chat template around it.
        limit: At most so many tokens were generated.
        parent: How many tokens the parent's answer has, the one that ends it counted; so far, if it does not end.
        descendant: Likewise the descendant's.
        parent_ends: Whether the parent's answer ends within the limit.
        descendant_ends: Likewise the descendant's.
        finite: Whether all the descendant's logits were finite.
        tail: The last words of the descendant's answer, where it does not end.
    """

    prompt: str
    limit: Index
    parent: Index
    descendant: Index
    parent_ends: bool
    descendant_ends: bool
    finite: bool = True
    tail: str = ""


class TaskResult(Fact):
    """One task of lm-evaluation-harness, item by item.

    Attributes:
        task: Its name.
        version: Its version, as the harness says.
        metric: Which metric, such as `acc`.
        parent: Per item, whether the parent is right.
        descendant: Likewise the descendant.
    """

    task: str
    version: str
    metric: str
    parent: tuple[bool, ...]
    descendant: tuple[bool, ...]

    @property
    def label(self) -> str:
        """How it is called among the tasks of a model."""
        return f"{self.task}, {self.metric}"


class Decision(Fact):
    """How clearly both models decide one question, from the logits of how an answer begins.

    Attributes:
        name: What it is called.
        parent: Logarithm of the probability that the parent's answer begins as the first decision does, over that
            of the second, in nats; `None` where it is not finite.
        descendant: Likewise the descendant's.
        expected: Whether the first decision is the better one; `None` if nobody says.
    """

    name: str
    parent: float | None
    descendant: float | None
    expected: bool | None = None


class Decisions(Fact):
    """Decisions of one kind, such as to refuse or to comply.

    Attributes:
        kind: Which kind.
        sides: What the two decisions are called, the first one's margins positive.
        decisions: The decisions; none where the parent cannot be asked.
        skipped: Why it cannot be asked, a clause; empty where it can.
    """

    kind: str
    sides: tuple[str, str]
    decisions: tuple[Decision, ...] = ()
    skipped: str = ""

    @property
    def label(self) -> str:
        """How it is called among the decisions of a model."""
        return " or ".join(self.sides)


class Descent(Fact):
    """Everything that was found and measured on a descendant and its parent together.

    Attributes:
        parent: Which model the parent is.
        parent_location: Where the parent's super weights are.
        super_weights: The parent's super weights, there and here.
        super_activations: The parent's super activations, there and here.
        activation_map: The parent and the descendant by layer and token on the prompt that located them; `None`
            where they cannot be compared so.
        critical: The search for the parent's critical scalars; `None` if nobody searched.
        critical_scalars: The parent's critical scalars, there and here.
        texts: Both on each text, the policy's `[corpus]` first.
        recovery: The beginning of the first text, in short windows, with parts of the parent put back; `None`
            where nothing was. Single parts come first, then sets of them, step by step.
        layers: Per decoder layer, on the first text.
        continuations: What both go on with.
        answers: How long their answers to chat prompts are.
        unasked: Why no chat prompt was answered, a clause; empty where some were, or nobody asked.
        tasks: Tasks of lm-evaluation-harness.
        decisions: What both decide, by kind; none where nobody asked.
        worst_modules: Modules whose weights differ most from the parent's, with their relative error, worst first;
            `None` where it is not finite. Looked for where quality fails.
        modules: How many modules were held against the parent's for that.
        notes: What a reader should know.
    """

    parent: ModelIdentity
    parent_location: Location
    super_weights: tuple[RetainedWeight, ...] = ()
    super_activations: tuple[RetainedActivation, ...] = ()
    activation_map: ActivationMap | None = None
    critical: CriticalSearch | None = None
    critical_scalars: tuple[RetainedScalar, ...] = ()
    texts: tuple[ComparedText, ...] = Field(min_length=1)
    recovery: ComparedText | None = None
    layers: tuple[LayerError, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    answers: tuple[AnswerLength, ...] = ()
    unasked: str = ""
    tasks: tuple[TaskResult, ...] = ()
    decisions: tuple[Decisions, ...] = ()
    worst_modules: tuple[tuple[str, float | None], ...] = ()
    modules: int = 0
    notes: tuple[str, ...] = ()

    @property
    def recovery_label(self) -> str:
        """What the text is called on which parts of the parent were put back."""
        cut = (self.recovery or self.texts[0]).protocol
        return f"{next(iter(self.label_texts()))}, {cut.windows} windows of {cut.window} tokens"

    def label_texts(self) -> dict[str, ComparedText]:
        """Return each text by what it is called; a second one of a name is counted, or told by its windows."""
        texts: dict[str, ComparedText] = {}
        first = self.texts[0].protocol
        for text in self.texts:
            name = text.protocol.corpus.name
            if text.protocol.corpus == first.corpus and text.protocol.window > first.window:
                name = f"{name} in windows of {text.protocol.window}"
            same = sum(other.protocol.corpus.name == name for other in texts.values())
            texts[f"{name} ({same + 1})" if same else name] = text
        return texts
