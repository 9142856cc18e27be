"""The sections of a page about many models: one file each, found here by being here."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module

from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.standing import group_by_protocol
from sw_audit_reports.elements import Element


@dataclass(frozen=True)
class Entry:
    """One model of many.

    Attributes:
        place: Its place in the order of the policy, from 0.
        anchor: What the ids of its part of the page begin with.
        model: Everything about it.
    """

    place: int
    anchor: str
    model: ModelResult | ModelFailure


@dataclass(frozen=True)
class FleetContext:
    """What a section about many models is built from.

    Attributes:
        record: The whole record.
        entries: Its models, the worst first.
        full: Anchors of those that have a whole part of the page of their own.
    """

    record: Record
    entries: tuple[Entry, ...]
    full: frozenset[str] = frozenset()

    @property
    def groups(self) -> tuple[FleetContext, ...]:
        """The same for the models of each protocol, whose figures alone can stand together."""
        groups = group_by_protocol([entry.model for entry in self.entries])
        return tuple(replace(self, entries=tuple(self.entries[place] for place in group)) for group in groups)

    def name_protocol(self) -> str:
        """Name the protocol of the models, which is one."""
        model = self.entries[0].model
        return "Not audited" if isinstance(model, ModelFailure) else f"Protocol {model.protocol}"


BuildFleetSection = Callable[[FleetContext], Iterable[Element | None]]


@dataclass(frozen=True)
class FleetSection:
    """One section; `id`, `title` and `order` are as in `sw_audit_reports.sections.Section`."""

    id: str
    title: str
    order: int
    build: BuildFleetSection


FLEET_SECTIONS: dict[str, FleetSection] = {}


def fleet_section(
    id: str,  # noqa: A002 - the word of the field
    *,
    title: str,
    order: int,
) -> Callable[[BuildFleetSection], BuildFleetSection]:
    """Register the decorated function as a section of the page about many models."""

    def register(build: BuildFleetSection) -> BuildFleetSection:
        FLEET_SECTIONS[id] = FleetSection(id, title, order, build)
        return build

    return register


def list_fleet_sections() -> list[FleetSection]:
    """List every registered section in the order of the page."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return sorted(FLEET_SECTIONS.values(), key=lambda one: one.order)
