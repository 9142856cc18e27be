"""A user's own index: findings are added at its end, and what is there stays.

TOML is written by hand here, for tomlkit would write the whole file anew, and what a user wrote must stay byte for
byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from sw_audit.errors import IndexFileError, OutputError
from sw_audit.index.reading import MARK, list_citations, parse_index, read_text
from sw_audit.policy.writing import write_value
from sw_audit.record import critical
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalScalar, CriticalSearch
from sw_audit.record.identity import ModelIdentity
from sw_audit.record.location import Location
from sw_audit.record.published import (
    Effect,
    Impact,
    LocalFinding,
    PublishedIndex,
    PublishedModel,
    PublishedWeight,
    Remark,
    Source,
)

_HEAD = f"""\
# An index of super weights, found by sw-audit. `sw-audit index --file THIS_FILE` shows it, and
# `index = "THIS_FILE"` in a policy has models held against it.

{MARK} = 1
"""
_PATIENCE = 10.0
"""Seconds to wait for somebody else's lock: a finding is added in milliseconds."""

_COLLAPSE = 10.0
"""Times the perplexity: what an index calls a collapse, see `Impact`."""

Finding = tuple[Source, PublishedModel]
Setting = bool | int | float | str


def describe_finding(
    identity: ModelIdentity,
    location: Location,
    *,
    tool: str,
    created: str,
    settings: Mapping[str, Setting],
    search: CriticalSearch | None = None,
) -> Finding:
    """Put what was located into the form of an index: one source, and one model that cites it.

    A model on the hub is entered by its id, a folder or a file by its full path; both by the digest of their
    weights. That none was located is entered too, with the reason. `created` is ISO 8601 in UTC; the settings are
    the locator's thresholds. Of a search for all scalars that matter these are entered, with their effects; what
    is located and inert is told in a remark alone.
    """
    place = Path(identity.source).expanduser()
    name = str(place.resolve()) if place.exists() else identity.source
    finding = LocalFinding(
        tool=tool,
        created=created,
        **identity.model_dump(include={"digest", "revision", "dtype"}),
        **location.model_dump(include={"prompt", "bos"}),
        settings=dict(settings),
    )
    stamp = "".join(mark for mark in created if mark.isalnum())
    source = Source(
        key=f"local-{identity.digest[:12]}-{stamp}",
        title=f"{tool}, local finding",
        trust="good",
        note=f"Located by one forward pass; what zeroing does was {'measured' if search else 'not measured'}.",
        finding=finding,
    )
    key = source.key
    weights = tuple(
        PublishedWeight(
            **weight.model_dump(include={"layer", "row", "column", "expert", "parameter", "value"}),
            sources=(key,),
            **_tell_effect(search, weight.address.scalar, key),
        )
        for weight in location.super_weights
        if weight.impact != "inert"
    )
    read = f"; only the first {location.layers_seen} layers were read" if location.depth == "early" else ""
    words = [f"Outcome {location.outcome}: {location.because}{read}."]
    words += [
        f"Located, and inert: {weight.address}." for weight in location.super_weights if weight.impact == "inert"
    ]
    effects: tuple[Effect, ...] = ()
    if search is not None:
        located = {weight.address.scalar for weight in location.super_weights}
        weights += tuple(
            _enter(search, scalar, key) for scalar in search.critical if scalar.address not in located
        )
        effects = tuple(_tell_set(search, held, key) for held in search.sets)
        words.append(f"A search for scalars that matter: {search.summary}.")
    remarks = tuple(Remark(words=said, sources=(key,)) for said in words)
    model = PublishedModel(id=name, digests=(identity.digest,), weights=weights, effects=effects, remarks=remarks)
    return source, model


def _enter(search: CriticalSearch, scalar: CriticalScalar, key: str) -> PublishedWeight:
    return PublishedWeight(
        **scalar.address.model_dump(),
        layer=scalar.layer,
        value=scalar.value,
        sources=(key,),
        note="Zeroing it makes less of the damage of the located set." if scalar.kind == "masks" else "",
        **_tell_effect(search, scalar.address, key),
    )


def _tell_effect(search: CriticalSearch | None, address: ScalarAddress, key: str) -> dict[str, Any]:
    """Tell what a scalar has been shown to carry, and what zeroing it alone does."""
    if search is None:
        return {"bearing": Impact.UNMEASURED}
    alone = [one.effect for one in search.scalars if one.address == address and one.effect is not None]
    within = [held.effect for held in search.sets if held.kind != "masks" and address in held.members]
    kinds = ((Impact.ALONE, map(_collapses, alone)), (Impact.JOINTLY, map(_collapses, within)))
    least = Impact.MINOR if alone or within else Impact.UNMEASURED
    return {
        "bearing": next((kind for kind, collapses in kinds if any(collapses)), least),
        "effects": tuple(
            Effect(zeroed="weight", words=_write_effect(search, effect), ratio=effect.ratio, source=key)
            for effect in alone
        ),
    }


def _collapses(effect: critical.Effect) -> bool:
    return effect.ratio is None or effect.ratio >= _COLLAPSE


def _tell_set(search: CriticalSearch, held: critical.CriticalSet, key: str) -> Effect:
    members, words = ", ".join(map(str, held.members)), _write_effect(search, held.effect)
    if held.kind == "masks":
        words = f"{members} with the located set, over that set by itself: {words}"
        return Effect(zeroed="set", words=words, source=key)
    return Effect(zeroed="set", words=f"{members}: {words}", ratio=held.effect.ratio, source=key)


def _write_effect(search: CriticalSearch, effect: critical.Effect) -> str:
    ratio = "not finite" if effect.ratio is None else f"x{effect.ratio:.4g}"
    ends = "" if effect.low is None or effect.high is None else f", interval {effect.low:.4g} to {effect.high:.4g}"
    return f"perplexity {ratio} ({search.text}, {effect.windows} windows of {search.window}{ends})"


def add_finding(path: Path, finding: Finding, write: Callable[[Path, str], None]) -> bool:
    """Add a finding at the end of an index file; the file is made if there is none.

    What is there stays byte for byte, comments included. The file is replaced whole, under a lock, so that it is
    at every moment either the old index or the new one, and two programs that add at once both succeed. `write`
    writes a text to a path whole or not at all. Returned is whether the finding was added: it is not if the same
    one, whenever it was made, is there already.

    Raises:
        IndexFileError: If the file is there and is not an index; it is not touched.
        OutputError: If it cannot be written, or somebody else holds its lock.
    """
    path = path.expanduser().resolve()
    with _lock(path):
        text = read_text(path) if path.exists() else _HEAD
        index = parse_index(text, str(path))
        if _is_known(index, finding):
            return False
        source, model = _rename(index, finding)
        grown = f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{encode_entry(source, model)}"
        if not _holds(grown, index, source, model):
            remedy = "write its models as [[model]] tables and its sources as [[source]] tables"
            raise OutputError(f"index {path}", "an entry at its end would not be read as a new one", remedy)
        write(path, grown)
    return True


def encode_entry(source: Source, model: PublishedModel) -> str:
    """Write a source and a model as TOML; what is not known is left out."""
    plain = source.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    finding = plain.pop("finding", None)
    lines = ["[[source]]", *_write_pairs(plain)]
    if finding:
        lines += ["[source.finding]", *_write_pairs(finding)]
    entry = model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    tables = {name: entry.pop(name, []) for name in ("variant", "weight", "curve", "remark")}
    lines += ["", "[[model]]", *_write_pairs(entry)]
    for name, rows in tables.items():
        for row in rows:
            lines += [f"[[model.{name}]]", *_write_pairs(row)]
    return "\n".join(lines) + "\n"


def _write_pairs(table: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{name} = {write_value(value)}" for name, value in table.items())


def _holds(text: str, index: PublishedIndex, source: Source, model: PublishedModel) -> bool:
    """Tell whether a text is the index and the new finding, and nothing else."""
    try:
        again = parse_index(text, "")
    except IndexFileError:
        return False
    return again.models == (*index.models, model) and again.sources == (*index.sources, source)


def _is_known(index: PublishedIndex, finding: Finding) -> bool:
    new = _compare_by(*finding)
    sources = {source.key: source for source in index.sources}
    return any(_compare_by(sources[key], model) == new for model in index.models for key in list_citations(model))


def _compare_by(source: Source, model: PublishedModel) -> Finding:
    """Leave out of a finding when it was made and under what key."""
    finding = source.finding and source.finding.model_copy(update={"created": ""})
    return source.model_copy(update={"key": "", "finding": finding}), _cite(model, "")


def _rename(index: PublishedIndex, finding: Finding) -> Finding:
    source, model = finding
    taken = {known.key for known in index.sources}
    if source.key not in taken:
        return finding
    key = next(name for number in count(2) if (name := f"{source.key}-{number}") not in taken)
    return source.model_copy(update={"key": key}), _cite(model, key)


def _cite(model: PublishedModel, key: str) -> PublishedModel:
    def cite(effects: Iterable[Effect]) -> tuple[Effect, ...]:
        return tuple(effect.model_copy(update={"source": key}) for effect in effects)

    weights = tuple(
        weight.model_copy(update={"sources": (key,), "effects": cite(weight.effects)}) for weight in model.weights
    )
    remarks = tuple(remark.model_copy(update={"sources": (key,)}) for remark in model.remarks)
    return model.model_copy(update={"weights": weights, "effects": cite(model.effects), "remarks": remarks})


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file beside the index that only one program can make; filelock would leave its own behind."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            break
        except FileExistsError as error:
            if time.monotonic() > deadline:
                remedy = "wait for the other sw-audit, or delete that file if none is running"
                raise OutputError(f"index {path}", f"it is locked by {lock.name}", remedy) from error
            time.sleep(0.02)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutputError(f"index {path}", reason, "choose a place that can be written to") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
