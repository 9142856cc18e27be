"""The record of an audit: the one product, from which every report is rendered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import ConfigDict, Field

from sw_audit.fact import Fact
from sw_audit.policy.policy import Policy
from sw_audit.policy.scheme import ActivationSetup
from sw_audit.policy.targets import PatternMatch
from sw_audit.record.arm import BASELINE
from sw_audit.record.baseline import Baseline
from sw_audit.record.comparison import Comparison
from sw_audit.record.descent import DESCENDANT, Descent
from sw_audit.record.dose import DoseCurve
from sw_audit.record.identity import Environment, ModelIdentity, Tool
from sw_audit.record.location import Location, PromptTrace
from sw_audit.record.lookup import Lookup
from sw_audit.record.measurement import Measurement
from sw_audit.record.mechanism import Mechanism
from sw_audit.record.prompt_search import PromptSearch
from sw_audit.record.protocol import Protocol
from sw_audit.record.quantized import QuantizationReport
from sw_audit.record.verdict import Verdict
from sw_audit.record.weights import WeightsReport


class ModelResult(Fact):
    """Everything that was found and measured on one model, before any judgement.

    Attributes:
        model: Which model it is.
        protocol: How figures were measured.
        location: Where its super weights are.
        persistence: The super activations' channels on several prompts.
        prompt_search: The search for a prompt that breaks them; `None` if it was not asked for.
        measurements: One per arm; the baseline first.
        mechanism: Each super activation, followed block by block.
        published_doses: Dose curves that others have measured, of this model or to compare it with.
        published: What the index of published coordinates says of it; `None` if it was not asked.
        activations: What was found out before activations were quantized; `None` if they were not.
        targets: What each pattern matched that says which matrices are rounded; empty if none is.
        comparison: Quantizers side by side; `None` if none were compared.
        weights: What a static look at its files found; `None` if nobody asked.
        quantization: How it is quantized; `None` if it is not, or nobody asked.
        descent: The model beside its parent; `None` without a parent.
        baseline: What was once known of it, or of what it was made from; `None` if nothing is compared.
        decoder_weights: Number of scalars in the decoder's matrices.
        notes: What a reader should know, such as a corpus that does not suit the model.
        seconds: Time spent, opening included.
    """

    model: ModelIdentity
    protocol: Protocol
    location: Location
    persistence: tuple[PromptTrace, ...] = ()
    prompt_search: PromptSearch | None = None
    measurements: tuple[Measurement, ...] = ()
    mechanism: tuple[Mechanism, ...] = ()
    published_doses: tuple[DoseCurve, ...] = ()
    published: Lookup | None = None
    activations: ActivationSetup | None = None
    targets: tuple[PatternMatch, ...] = ()
    comparison: Comparison | None = None
    weights: WeightsReport | None = None
    quantization: QuantizationReport | None = None
    descent: Descent | None = None
    baseline: Baseline | None = None
    decoder_weights: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)

    def measured(self, arm: str) -> Measurement | None:
        """Return the measurement of the arm of that name, if it was measured."""
        return next((found for found in self.measurements if found.arm.name == arm), None)

    @property
    def unedited(self) -> Measurement | None:
        """The model as it is, no act in force, by itself or beside its parent; `None` if it was not measured."""
        beside = None if self.descent is None else self.descent.texts[0].measured(DESCENDANT)
        return self.measured(BASELINE.name) or beside


class ModelFailure(Fact):
    """A model that could not be audited.

    Attributes:
        model: Its id.
        message: The error, one line.
        weights: What a static look at its files found, where that is why.
    """

    model: str
    message: str
    weights: WeightsReport | None = None


class Record(Fact):
    """One audit of one or more models, as a versioned document.

    Attributes:
        schema_number: Version of the record's form, `schema` in JSON.
        tool: What wrote it.
        created: When, ISO 8601 in UTC.
        environment: On what.
        policy: What was asked.
        models: The models that were audited.
        protocol: Per model id, how figures were measured.
        locations: Per model id, where its super weights are.
        persistence: Per model id, the super activations' channels on several prompts.
        prompt_searches: Per model id, the search for a prompt that breaks them.
        measurements: All measurements, model by model, the baseline arm first.
        mechanism: Per model id, its super activations followed block by block.
        published_doses: Per model id, dose curves that others have measured.
        published: Per model id, what the index of published coordinates says of it.
        activations: Per model id, what was found out before activations were quantized.
        targets: Per model id, what each pattern matched that says which matrices are rounded.
        comparisons: Per model id, quantizers side by side.
        weights: Per model id, what a static look at its files found.
        quantization: Per model id, how it is quantized.
        descents: Per model id, the model beside its parent.
        baselines: Per model id, what was once known of it.
        decoder_weights: Per model id, number of scalars in the decoder's matrices.
        notes: Per model id, what a reader should know.
        seconds: Per model id, time spent.
        failures: The models that could not be audited.
        verdicts: One per check and model.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_number: Literal[1] = Field(default=1, alias="schema")
    tool: Tool
    created: str
    environment: Environment
    policy: Policy
    models: tuple[ModelIdentity, ...] = ()
    protocol: dict[str, Protocol] = Field(default_factory=dict)
    locations: dict[str, Location] = Field(default_factory=dict)
    persistence: dict[str, tuple[PromptTrace, ...]] = Field(default_factory=dict)
    prompt_searches: dict[str, PromptSearch] = Field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    mechanism: dict[str, tuple[Mechanism, ...]] = Field(default_factory=dict)
    published_doses: dict[str, tuple[DoseCurve, ...]] = Field(default_factory=dict)
    published: dict[str, Lookup] = Field(default_factory=dict)
    activations: dict[str, ActivationSetup] = Field(default_factory=dict)
    targets: dict[str, tuple[PatternMatch, ...]] = Field(default_factory=dict)
    comparisons: dict[str, Comparison] = Field(default_factory=dict)
    weights: dict[str, WeightsReport] = Field(default_factory=dict)
    quantization: dict[str, QuantizationReport] = Field(default_factory=dict)
    descents: dict[str, Descent] = Field(default_factory=dict)
    baselines: dict[str, Baseline] = Field(default_factory=dict)
    decoder_weights: dict[str, int] = Field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    failures: tuple[ModelFailure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def from_evidence(
        cls,
        evidence: Iterable[ModelResult],
        verdicts: Iterable[Verdict],
        failures: Iterable[ModelFailure] = (),
        *,
        tool: Tool,
        created: str,
        environment: Environment,
        policy: Policy,
    ) -> Self:
        """Put the evidence of several models, and what was concluded from it, into one document."""
        found = tuple(evidence)
        return cls(
            tool=tool,
            created=created,
            environment=environment,
            policy=policy,
            models=tuple(one.model for one in found),
            protocol={one.model.id: one.protocol for one in found},
            locations={one.model.id: one.location for one in found},
            persistence={one.model.id: one.persistence for one in found},
            prompt_searches={one.model.id: one.prompt_search for one in found if one.prompt_search is not None},
            measurements=tuple(measured for one in found for measured in one.measurements),
            mechanism={one.model.id: one.mechanism for one in found},
            published_doses={one.model.id: one.published_doses for one in found},
            published={one.model.id: one.published for one in found if one.published is not None},
            activations={one.model.id: one.activations for one in found if one.activations is not None},
            targets={one.model.id: one.targets for one in found if one.targets},
            comparisons={one.model.id: one.comparison for one in found if one.comparison is not None},
            weights={one.model.id: one.weights for one in found if one.weights is not None},
            quantization={one.model.id: one.quantization for one in found if one.quantization is not None},
            descents={one.model.id: one.descent for one in found if one.descent is not None},
            baselines={one.model.id: one.baseline for one in found if one.baseline is not None},
            decoder_weights={one.model.id: one.decoder_weights for one in found},
            notes={one.model.id: one.notes for one in found},
            seconds={one.model.id: one.seconds for one in found},
            failures=tuple(failures),
            verdicts=tuple(verdicts),
        )

    def evidence(self, model_id: str) -> ModelResult:
        """Return what was found and measured on one model.

        Raises:
            KeyError: If the record holds no such model.
        """
        return ModelResult(
            model={model.id: model for model in self.models}[model_id],
            protocol=self.protocol[model_id],
            location=self.locations[model_id],
            persistence=self.persistence.get(model_id, ()),
            prompt_search=self.prompt_searches.get(model_id),
            measurements=tuple(found for found in self.measurements if found.model == model_id),
            mechanism=self.mechanism.get(model_id, ()),
            published_doses=self.published_doses.get(model_id, ()),
            published=self.published.get(model_id),
            activations=self.activations.get(model_id),
            targets=self.targets.get(model_id, ()),
            comparison=self.comparisons.get(model_id),
            weights=self.weights.get(model_id),
            quantization=self.quantization.get(model_id),
            descent=self.descents.get(model_id),
            baseline=self.baselines.get(model_id),
            decoder_weights=self.decoder_weights.get(model_id, 0),
            notes=self.notes.get(model_id, ()),
            seconds=self.seconds.get(model_id, 0.0),
        )
