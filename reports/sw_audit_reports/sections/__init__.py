"""The sections of a model's part of the report: one file each, found here by being here."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from sw_audit.policy.policy import Policy
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.verdict import Verdict
from sw_audit_reports.elements import Element, Words


@dataclass(frozen=True)
class Context:
    """What a section is built from.

    Attributes:
        record: The whole record.
        result: What was found and measured on the model.
        anchor: What the ids of the model's part of the page begin with.
    """

    record: Record
    result: ModelResult
    anchor: str

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What was concluded about it."""
        return self.result.verdicts

    @property
    def policy(self) -> Policy:
        """What was asked."""
        return self.record.policy


BuildSection = Callable[[Context], Iterable[Element | None]]
Summarize = Callable[[Context], Words]


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        id: What the id of its heading ends with.
        title: Its heading.
        order: Its place among the sections, the smallest first.
        build: Yields its elements; a section of none is left out.
        summarize: Says in a sentence what the model comes to, or nothing. The first section that says something
            gives the banner its sentence.
    """

    id: str
    title: str
    order: int
    build: BuildSection
    summarize: Summarize | None = None


SECTIONS: dict[str, Section] = {}


def section(
    id: str,  # noqa: A002 - the word of the field
    *,
    title: str,
    order: int,
    summarize: Summarize | None = None,
) -> Callable[[BuildSection], BuildSection]:
    """Register the decorated function as a section of the report."""

    def register(build: BuildSection) -> BuildSection:
        SECTIONS[id] = Section(id, title, order, build, summarize)
        return build

    return register


def list_sections() -> list[Section]:
    """List every registered section in the order of the page."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return sorted(SECTIONS.values(), key=lambda one: one.order)


def summarize_model(context: Context) -> Words:
    """Say in a sentence what a model comes to: as the first section says that has something to say."""
    sentences = (section.summarize(context) for section in list_sections() if section.summarize is not None)
    return next(filter(None, sentences), ())
