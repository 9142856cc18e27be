"""The outline of the report: what stands on the page, and on it of each model."""

from __future__ import annotations

from dataclasses import dataclass

from sw_audit_reports.page import Badge, Banner, Card, Cell, Chart, OtherPrompts, Quantizers, Table, Term, Works


@dataclass(frozen=True)
class SplitText:
    """What one model goes on with: as far as it goes with the other, and from where they part.

    Attributes:
        name: Whose it is.
        alike: The beginning that both share.
        apart: The rest; empty where they never part.
    """

    name: str
    alike: str
    apart: str


@dataclass(frozen=True)
class Continued:
    """What parent and descendant go on with after one prompt."""

    title: str
    prompt: str
    told: str
    sides: tuple[SplitText, SplitText]


@dataclass(frozen=True)
class Beside:
    """The section that holds a model beside its parent.

    Attributes:
        told: What it comes to, in words.
        parent: Which model the parent is.
        weights: The parent's super weights, there and here.
        activations: The parent's super activations, there and here.
        figures: The charts.
        quality: A table for each text.
        recovered: What putting parts of the parent back recovers.
        modules: The modules that differ most.
        tasks: Zero-shot tasks.
        continuations: What both go on with.
    """

    told: tuple[Cell, ...]
    parent: tuple[Term, ...]
    weights: Table | None
    activations: Table | None
    figures: tuple[Chart, ...]
    quality: tuple[Table, ...]
    recovered: Table | None
    modules: Table | None
    tasks: Table | None
    continuations: tuple[Continued, ...]


@dataclass(frozen=True)
class Stored:
    """The section on how a model is quantized.

    Attributes:
        told: The method in words, and whether the weights that are read are those that it computes with.
        held: The parent's super weights, each with its module's bits and its own rounding error.
        patterns: What each pattern of the configuration matched.
        modules: How many modules are stored in which way.
        left: Decoder matrices that are not quantized though nothing leaves them out.
    """

    told: str
    held: Table | None
    patterns: Table | None
    modules: Table
    left: Table | None


@dataclass(frozen=True)
class Files:
    """What a static look at a checkpoint's files found."""

    told: tuple[Cell, ...]
    flaws: Table | None


@dataclass(frozen=True)
class Earlier:
    """The section that holds a model against what was once known of it."""

    told: str
    weights: Table | None
    activations: Table | None


@dataclass(frozen=True)
class Unaudited:
    """A model that could not be audited."""

    id: str
    name: str
    badge: Badge
    message: tuple[Cell, ...]
    files: Files | None
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class ModelView:
    """Everything about one model."""

    id: str
    name: str
    banner: Banner
    outcome: tuple[Cell, ...]
    super_weights: Table | None
    witness: Table | None
    super_activations: Table | None
    candidates: Table | None
    candidates_summary: str
    published: Table | None
    prompts: OtherPrompts | None
    figures: tuple[Chart, ...]
    works: Works | None
    quantizers: Quantizers | None
    beside: Beside | None
    stored: Stored | None
    held: Files | None
    earlier: Earlier | None
    checks: Table | None
    cards: tuple[Card, ...]
    identity: tuple[Term, ...]
    files: Table
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    heading: str
    banner: Banner
    overview: Table | None
    models: tuple[ModelView, ...]
    failures: tuple[Unaudited, ...]
    made: tuple[Term, ...]
    packages: Table
    policy: str
    render_command: str
    policy_command: str
    policy_asks: str
