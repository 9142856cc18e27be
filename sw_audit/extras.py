"""What other packages add by entry points: checks and engines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

from sw_audit.errors import PolicyError

_Kind = TypeVar("_Kind")


def load_extras(group: str, kind: type[_Kind], what: str) -> Iterator[tuple[str, _Kind]]:
    """Load what installed packages name in a group, and yield each with the words that an error calls it by.

    Args:
        group: The group of entry points.
        kind: What each has to be.
        what: What each is called, such as `extra check`.

    Raises:
        PolicyError: If one cannot be loaded, or is something else.
    """
    for point in entry_points(group=group):
        asked = f"{what} {point.name!r} ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:
            raise PolicyError(asked, f"cannot be loaded: {error}", "repair or uninstall the package") from error
        if not isinstance(loaded, kind):
            raise PolicyError(asked, f"is a {type(loaded).__name__}", f"let it name one of {kind.__name__}")
        yield asked, loaded
