"""The outline of the report: what stands on the page, and on it of each model."""

from __future__ import annotations

from dataclasses import dataclass

from sw_audit_reports.page import Banner, Card, Cell, Figure, OtherPrompts, Quantizers, Table, Term, Works


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
    figures: tuple[Figure, ...]
    works: Works | None
    quantizers: Quantizers | None
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
    failures: tuple[Term, ...]
    made: tuple[Term, ...]
    packages: Table
    policy: str
    render_command: str
    policy_command: str
    policy_asks: str
