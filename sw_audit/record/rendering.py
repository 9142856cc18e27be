"""From a record to a report, through the renderers that are attached by the entry point `sw_audit.renderers`."""

from __future__ import annotations

from importlib.metadata import entry_points

from sw_audit.errors import OutputError
from sw_audit.record.record import Record

GROUP = "sw_audit.renderers"


def list_formats() -> tuple[str, ...]:
    """Return the names of the formats that there are renderers for."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def render_record(record: Record, format: str = "html") -> str:  # noqa: A002 - the word of the field
    """Render a record.

    Raises:
        OutputError: If there is no renderer for the format.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if format not in points:
        known = ", ".join(sorted(points)) or "none is installed"
        raise OutputError(f"format {format!r}", "no renderer writes it", f"choose among: {known}")
    return str(points[format].load()(record))
