"""What every fact has in common: frozen, closed, finite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable

from pydantic import BaseModel, ConfigDict


class Fact(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers.

    A measurement that is missing or not finite is `None`, never NaN and never a sentinel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def digest_fact(fact: Fact, unless_none: Collection[str] = ()) -> str:
    """Return the sha256 (64 hex digits) of a fact's canonical JSON, some fields left out where they are `None`.

    Two facts have the same digest exactly when they are equal and of one type.
    """
    content = fact.model_dump(mode="json")
    content = {name: value for name, value in content.items() if value is not None or name not in unless_none}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_location(path: Iterable[str | int]) -> str:
    """Write where in a document an error of pydantic is, such as `model[0].source`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
