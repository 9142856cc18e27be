"""The record of an audit: the one product, from which every report is rendered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import ConfigDict, Field

from sw_audit.facts.fact import Fact
from sw_audit.facts.identity import Environment, ModelIdentity, Tool
from sw_audit.facts.location import Location, PromptTrace
from sw_audit.facts.measurement import Measurement
from sw_audit.facts.policy import Policy
from sw_audit.facts.protocol import Protocol
from sw_audit.facts.verdict import Verdict


class Evidence(Fact):
    """Everything that was found and measured on one model, before any judgement.

    Attributes:
        model: Which model it is.
        protocol: How figures were measured.
        location: Where its super weights are.
        persistence: The super activations' channels on several prompts.
        measurements: One per arm; the baseline first.
        decoder_weights: Number of scalars in the decoder's matrices.
        notes: What a reader should know, such as a corpus that does not suit the model.
        seconds: Time spent, opening included.
    """

    model: ModelIdentity
    protocol: Protocol
    location: Location
    persistence: tuple[PromptTrace, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    decoder_weights: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = Field(default=0.0, ge=0)

    def measured(self, arm: str) -> Measurement | None:
        """Return the measurement of the arm of that name, if it was measured."""
        return next((found for found in self.measurements if found.arm.name == arm), None)


class ModelFailure(Fact):
    """A model that could not be audited.

    Attributes:
        model: Its id.
        message: The error, one line.
    """

    model: str
    message: str


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
        measurements: All measurements, model by model, the baseline arm first.
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
    measurements: tuple[Measurement, ...] = ()
    decoder_weights: dict[str, int] = Field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    failures: tuple[ModelFailure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def from_evidence(
        cls,
        evidence: Iterable[Evidence],
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
            measurements=tuple(measured for one in found for measured in one.measurements),
            decoder_weights={one.model.id: one.decoder_weights for one in found},
            notes={one.model.id: one.notes for one in found},
            seconds={one.model.id: one.seconds for one in found},
            failures=tuple(failures),
            verdicts=tuple(verdicts),
        )

    def evidence(self, model_id: str) -> Evidence:
        """Return what was found and measured on one model.

        Raises:
            KeyError: If the record holds no such model.
        """
        return Evidence(
            model={model.id: model for model in self.models}[model_id],
            protocol=self.protocol[model_id],
            location=self.locations[model_id],
            persistence=self.persistence.get(model_id, ()),
            measurements=tuple(found for found in self.measurements if found.model == model_id),
            decoder_weights=self.decoder_weights.get(model_id, 0),
            notes=self.notes.get(model_id, ()),
            seconds=self.seconds.get(model_id, 0.0),
        )
