"""The record of an audit: the one product, from which every report is rendered."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from sw_audit.fact import Fact
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.policy.policy import Policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.policy.targets import PatternMatch
from sw_audit.record.arm import BASELINE, DESCENDANT, Purpose
from sw_audit.record.baseline import Baseline
from sw_audit.record.checkpoint import QuantizationReport, WeightsReport
from sw_audit.record.critical import CriticalSearch
from sw_audit.record.descent import Descent
from sw_audit.record.engine import EngineResult
from sw_audit.record.experts import ExpertStudy
from sw_audit.record.files import ComparedFiles
from sw_audit.record.identity import Environment, ModelIdentity, Protocol, Tool
from sw_audit.record.keys import KeyReport
from sw_audit.record.location import Location, Mechanism, PromptSearch, PromptTrace
from sw_audit.record.maps import ActivationMap, Neighbourhood
from sw_audit.record.measurement import Comparison, Look, Measurement, PromptContinuation
from sw_audit.record.memory import MemoryUse
from sw_audit.record.published import DoseCurve, Lookup
from sw_audit.record.redaction import Redaction
from sw_audit.record.start import StartTrial
from sw_audit.record.verdict import Verdict


class ModelResult(Fact):
    """Everything about one model: what it is, what was measured on it, and what follows.

    Attributes:
        kind: Tells it from a `ModelFailure` in JSON.
        model: Which model it is.
        protocol: How figures were measured.
        location: Where its super weights are.
        start: Whether BOS stands before every text, and whether the other way would be better; `None` in records
            that do not say.
        critical: Which of all its scalars matter; `None` if nobody searched.
        experts: Which experts of a mixture are zeroed, and what they were chosen by; `None` of a dense model, and
            where nobody asked. Where tokens are routed stands in the measurement of the model as it is.
        persistence: The super activations' channels on several prompts.
        prompt_search: The search for a prompt that breaks them; `None` if it was not asked for.
        measurements: One per arm; the baseline first. In steps of evidence an arm has the windows and items of the
            steps that were asked of it, the first ones.
        looks: How much of text and items each step of evidence reaches; empty where all was measured at once.
        continuations: What it goes on with by itself, greedily; beside a parent `Descent` has both models'.
        mechanism: Each super activation, followed block by block.
        activation_map: The model as it is and with its super weights zeroed, by layer and token; `None` without
            super weights, and where `mechanism` was not asked for.
        neighbourhoods: What is around each super weight in its matrix; beside a parent `Descent` has it.
        bits_per_weight: Of the arms that round weights to nearest, by name: all that would be stored for the
            decoder's matrices, over the number of their weights.
        published_doses: Dose curves that others have measured, of this model or to compare it with.
        published: What the index of published coordinates says of it; `None` if it was not asked.
        activations: What was found out before activations were quantized; `None` if they were not.
        targets: What each pattern matched that says which matrices are rounded; empty if none is.
        comparison: Quantizers side by side; `None` if none were compared.
        weights: What a static look at its files found; `None` if nobody asked.
        files: What its files show beside its parent's; `None` without a parent, or if nobody asked.
        quantization: How it is quantized; `None` if it is not, or nobody asked.
        attention_keys: What its attention caches, and what rounding that would cost; `None` if nobody looked.
        descent: The model beside its parent; `None` without a parent.
        engine: The program that its quality was measured in; `None` of transformers. Then `measurements` holds the
            model in it as the baseline, the same files in transformers, and other forms of the key-value cache.
        baseline: What was once known of it, or of what it was made from; `None` if nothing is compared.
        decoder_weights: Number of scalars in the decoder's matrices.
        unigram_nats: Entropy of the scored tokens by their frequencies alone, nats per token: what a model that
            knows nothing but these would lose. `None` in records of before it was kept.
        notes: What a reader should know, such as a corpus that does not suit the model.
        seconds: Time spent, opening included.
        memory: Memory taken; `None` without a budget, and where nothing was measured anew.
        stopped: Why the run ended before everything was measured, as a clause; `None` if it did not.
        verdicts: What follows, one per check; empty until it is judged.
    """

    kind: Literal["result"] = "result"
    model: ModelIdentity
    protocol: Protocol
    location: Location
    start: StartTrial | None = None
    critical: CriticalSearch | None = None
    experts: ExpertStudy | None = None
    persistence: tuple[PromptTrace, ...] = ()
    prompt_search: PromptSearch | None = None
    measurements: tuple[Measurement, ...] = ()
    looks: tuple[Look, ...] = ()
    continuations: tuple[PromptContinuation, ...] = ()
    mechanism: tuple[Mechanism, ...] = ()
    activation_map: ActivationMap | None = None
    neighbourhoods: tuple[Neighbourhood, ...] = ()
    bits_per_weight: dict[str, float] = Field(default_factory=dict)
    published_doses: tuple[DoseCurve, ...] = ()
    published: Lookup | None = None
    activations: ActivationSetup | None = None
    targets: tuple[PatternMatch, ...] = ()
    comparison: Comparison | None = None
    weights: WeightsReport | None = None
    files: ComparedFiles | None = None
    quantization: QuantizationReport | None = None
    attention_keys: KeyReport | None = None
    descent: Descent | None = None
    engine: EngineResult | None = None
    baseline: Baseline | None = None
    decoder_weights: int = 0
    unigram_nats: float | None = Field(default=None, ge=0)
    notes: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)
    memory: MemoryUse | None = None
    stopped: str | None = None
    verdicts: tuple[Verdict, ...] = ()

    @property
    def id(self) -> str:
        """Id of the model."""
        return self.model.id

    def measured(self, arm: Purpose | str) -> Measurement | None:
        """Return the measurement of the arm with that purpose, or of that name, if it was measured."""
        return next((measured for measured in self.measurements if measured.arm.name == str(arm)), None)

    @property
    def planned_looks(self) -> int:
        """How often verdicts are looked at, at most: the steps of the text that has most; at least 1."""
        texts = () if self.descent is None else self.descent.texts
        return max(len(self.looks), *(len(text.looks) for text in texts), 1)

    @property
    def item_looks(self) -> int:
        """How many of the steps bring more multiple-choice items; at least 1."""
        return max(1, len({look.items for look in self.looks}))

    def at_look(self, look: int) -> ModelResult:
        """Return what was known after a step of evidence, counted from 0; all of it where nothing was in steps."""
        update: dict[str, object] = {}
        if self.looks:
            reach = self.looks[min(look, len(self.looks) - 1)]
            update["measurements"] = tuple(one.first(reach.windows, reach.items) for one in self.measurements)
        if self.descent is not None:
            texts = tuple(text.at_look(look) for text in self.descent.texts)
            update["descent"] = self.descent.model_copy(update={"texts": texts})
        return self.model_copy(update=update) if update else self

    @property
    def unedited(self) -> Measurement | None:
        """The model as it is, no act in force, by itself or beside its parent; `None` if it was not measured."""
        beside = None if self.descent is None else self.descent.texts[0].measured(DESCENDANT.name)
        return self.measured(BASELINE.name) or beside


class ModelFailure(Fact):
    """A model that could not be audited.

    Attributes:
        kind: Tells it from a `ModelResult` in JSON.
        model: Its id.
        message: The error, one line.
        weights: What a static look at its files found; without it nothing of the files was looked at.
        files: What they show beside its parent's, where that is why.
        stopped: Why the run ended before it was measured, as a clause, where that is why.
        verdicts: What follows, one per check; empty where nothing can be judged.
        checks: Ids of the checks that were asked of it, where nothing could be judged.
    """

    kind: Literal["failure"] = "failure"
    model: str
    message: str
    weights: WeightsReport | None = None
    files: ComparedFiles | None = None
    stopped: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    checks: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Id of the model."""
        return self.model


AuditedModel: TypeAlias = Annotated[ModelResult | ModelFailure, Field(discriminator="kind")]


CIRCUMSTANCES = ("tool", "created", "environment", "policy", "origin", "redacted")
"""What a record says besides its models."""


class RecordSource(Fact):
    """A record that was merged into another: all of it but its models, which stand there.

    Attributes:
        name: What stands after `@` in the ids of its models; empty where they are as they were.
        sha256: Digest of the record as it was, 64 hex digits; with the names taken off it can be had again.
        verified: Whether it verified when it was merged.
        models: Ids of its models, in their order.
        tool: What wrote it.
        created: When, ISO 8601 in UTC.
        environment: On what.
        policy: What was asked.
        origin: Where the policy stands.
        redacted: What was left out of its texts.
    """

    name: str = ""
    sha256: str
    verified: bool = True
    models: tuple[str, ...]
    tool: Tool
    created: str
    environment: Environment
    policy: Policy
    origin: PolicyOrigin | None = None
    redacted: tuple[Redaction, ...] = ()


class Record(Fact):
    """One audit of one or more models, as a versioned document; or several that were merged.

    Attributes:
        schema_number: Version of the record's form, `schema` in JSON.
        tool: What wrote it.
        created: When, ISO 8601 in UTC; of merged records the latest.
        environment: On what; of merged records the first, and `find_part` gives that of a model.
        policy: What was asked; of merged records as with the environment.
        origin: Where the policy stands; `None` where options alone make it, and in records that do not say.
        models: Everything about each model, in the order of the policy, and of the records that were merged.
        redacted: What was left out of its texts, and how often; empty if nothing was.
        sources: The records that were merged, in order; empty of one audit.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_number: Literal[4] = Field(default=4, alias="schema")
    tool: Tool
    created: str
    environment: Environment
    policy: Policy
    origin: PolicyOrigin | None = None
    models: tuple[AuditedModel, ...] = ()
    redacted: tuple[Redaction, ...] = ()
    sources: tuple[RecordSource, ...] = ()

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        ids = [model.id for model in self.models]
        if self.sources and [name for source in self.sources for name in source.models] != ids:
            raise ValueError("its models are not those of the records that were merged")
        if self.sources and len(set(ids)) < len(ids):
            raise ValueError("two models of records that were merged have one id")
        return self

    @property
    def parts(self) -> tuple[Record, ...]:
        """The record of each audit, under the ids that its models have here: what policy and day they go by."""
        if not self.sources:
            return (self,)
        parts, start = [], 0
        for source in self.sources:
            own = self.models[start : start + len(source.models)]
            start += len(own)
            kept = {name: getattr(source, name) for name in CIRCUMSTANCES}
            parts.append(self.model_copy(update={**kept, "models": own, "sources": ()}))
        return tuple(parts)

    def find_part(self, model_id: str) -> Record:
        """Return the record of the audit that a model comes from.

        Raises:
            KeyError: If there is no model of that id.
        """
        if not self.sources:
            return self
        return {model.id: part for part in self.parts for model in part.models}[model_id]

    @property
    def results(self) -> tuple[ModelResult, ...]:
        """The models that were audited."""
        return tuple(model for model in self.models if isinstance(model, ModelResult))

    @property
    def failures(self) -> tuple[ModelFailure, ...]:
        """The models that could not be audited."""
        return tuple(model for model in self.models if isinstance(model, ModelFailure))

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """How figures were measured, on every text of every model; each once."""
        listed = []
        for result in self.results:
            beside = () if result.descent is None else result.descent.texts
            listed += [result.protocol, *(text.protocol for text in beside)]
        return tuple(dict.fromkeys(listed))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts, model by model."""
        return tuple(verdict for model in self.models for verdict in model.verdicts)

    def find_model(self, model_id: str) -> ModelResult:
        """Return everything about one audited model.

        Raises:
            KeyError: If the record holds no audited model of that id.
        """
        return {result.id: result for result in self.results}[model_id]
