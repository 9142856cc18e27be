"""From a model's name to its entry in an index: by id, by what it is a variant of, by its files; or none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from sw_audit.errors import PolicyError
from sw_audit.index.lineage import read_ancestors, read_names
from sw_audit.index.reading import list_citations, merge_indexes, read_index, read_published
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.published import DoseCurve, Effect, Lookup, Match, PublishedIndex, PublishedModel

NO_ENTRY = "none"
"""What a policy gives as a model's `index` if no entry applies to it."""

_HUB = re.compile(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
# Words by which publishers name what they tuned on instructions. Nothing else of a name may differ.
_TUNED = re.compile(r"[-_](instruct|chat|it)(?=[-_]|$)", re.IGNORECASE)
# Likeness (difflib's ratio) of two names that differ by a few letters, and of two that begin with the same family.
_ALIKE, _AKIN = 0.8, 0.5
_FAMILY = re.compile(r"[a-z]{2,}")


def open_index(file: str | Path | None = None) -> PublishedIndex:
    """Return the published coordinates, together with those of a user's own index.

    Raises:
        IndexFileError: If the file is not an index.
    """
    return read_published() if file is None else merge_indexes(read_published(), read_index(Path(file)))


def find_policy_model(policy: Policy, model: ModelPolicy, digests: Collection[str] = ()) -> Lookup:
    """Look up one of a policy's models, under the name that the policy gives for it if it does.

    `digests` are those of its weight files, see `ModelIdentity.digests`.

    Raises:
        IndexFileError: If the policy's own index cannot be used.
        PolicyError: If the policy names an entry that there is not.
    """
    index = open_index(policy.index)
    if model.index is None:
        return find_published(index, model.source, digests=digests)
    if model.index.casefold() == NO_ENTRY:
        because = "the policy says that no entry applies to this model"
        return Lookup(asked=model.source, match=Match.NONE, because=because)
    entry = find_published(index, model.index)
    if entry.model is None:
        remedy = f"write {entry.nearest[0]!r}" if entry.nearest else "see `sw-audit index` for what there is"
        raise PolicyError(f"model {model.id!r}, key index {model.index!r}", "the index has no such entry", remedy)
    because = f"the policy names {entry.model.id} as its entry"
    return entry.model_copy(update={"asked": model.source, "match": Match.NAMED, "because": because})


def find_published(index: PublishedIndex, asked: str, *, digests: Collection[str] = ()) -> Lookup:
    """Look up a model.

    A name is matched by hub id, case aside, also as an address on the hub; one without an owner is matched by the
    last part of an id, if that is unambiguous. Variants are those that a source speaks of, and names of the same
    owner that differ by nothing but `Instruct`, `chat` or `it`. A folder or a file is matched by the digests of
    its weights or by what its files say (see `lineage`), never by what it is called. Without an entry the answer
    says why there is none and which ids are near.
    """
    by_digest = next((model for model in index.models if not set(digests).isdisjoint(model.digests)), None)
    if by_digest is not None:
        own = _leave_out_others(index, by_digest, digests)
        return _answer(index, asked, own, Match.DIGEST, "its weight files are those that the entry was found in")
    place = Path(asked).expanduser()
    if place.exists():
        return _find_place(index, asked, place)
    name = _HUB.sub("", asked.strip()).rstrip("/")
    lookup = _find_name(index, asked, name) or _find_last_part(index, asked, name)
    if lookup is not None:
        return lookup
    because = f"the index has no entry for {name!r}, nor for a model that its name says it is a variant of"
    return Lookup(asked=asked, match=Match.NONE, because=because, nearest=find_nearest(index, name))


def find_nearest(index: PublishedIndex, name: str, count: int = 3) -> tuple[str, ...]:
    """Return the ids that resemble a name most, owners aside: written nearly so, or of a family of that name.

    A family is the word that a name begins with, figures left out: `llama` of `Llama-2-7b`.
    """
    parts: dict[str, str] = {}
    for model in index.models:
        for key in _list_ids(model):
            parts.setdefault(key.casefold().rpartition("/")[2], key)
    asked = name.casefold().replace("\\", "/").rstrip("/").rpartition("/")[2]
    family = _FAMILY.findall(asked)[:1]
    kin = [part for part in parts if family and family == _FAMILY.findall(part)[:1]]
    near = [*get_close_matches(asked, parts, count, _ALIKE), *get_close_matches(asked, kin, count, _AKIN)]
    return tuple(dict.fromkeys(parts[part] for part in near))[:count]


def _find_place(index: PublishedIndex, asked: str, place: Path) -> Lookup:
    here, kind = str(place.resolve()), "folder" if place.is_dir() else "file"
    own = next((model for model in index.models if model.id == here), None)
    if own is not None:
        return _answer(index, asked, own, Match.LISTED, f"a local finding was made in this {kind}")
    reasons = []
    for ancestor in read_ancestors(place):
        lookup = _find_name(index, asked, ancestor.id)
        if lookup is None or lookup.model is None:
            reasons.append(f"{ancestor.where} names {ancestor.id}, which has none")
        elif ancestor.same:
            return lookup
        else:
            because = f"{ancestor.where} says that it was made from {ancestor.id}"
            if lookup.inherited:
                because = f"{because}; {lookup.because}"
            return lookup.model_copy(update={"match": Match.DERIVED, "because": because})
    reason = "; ".join(reasons) or "its files name no model on the hub that it was made from"
    near = dict.fromkeys(key for name in read_names(place) for key in find_nearest(index, name))
    return Lookup(
        asked=asked,
        match=Match.NONE,
        because=f"the index has no entry for the {kind} {asked!r}: {reason}",
        nearest=tuple(near)[:3],
    )


def _find_name(index: PublishedIndex, asked: str, name: str) -> Lookup | None:
    folded = name.casefold()
    if (listed := _find_id(index, folded)) is not None:
        return _answer(index, asked, listed, Match.LISTED, "its hub id is the entry's")
    for model in index.models:
        for variant in model.variants:
            if folded == variant.id.casefold():
                because = f"{variant.id} is a variant of {model.id}: {variant.claim}"
                return _answer(index, asked, model, Match.VARIANT, because)
    base = _TUNED.sub("", folded)
    original = None if base == folded or "/" not in base else _find_id(index, base)
    if original is None:
        return None
    because = (
        f"{name} is by its name an instruct or chat variant of {original.id}: the same coordinates are "
        "usual there, but nobody has published that they are as critical"
    )
    return _answer(index, asked, original, Match.VARIANT, because)


def _find_id(index: PublishedIndex, folded: str) -> PublishedModel | None:
    models = (model for model in index.models if any(folded == key.casefold() for key in _list_ids(model)))
    return next(models, None)


def _find_last_part(index: PublishedIndex, asked: str, name: str) -> Lookup | None:
    """Match a name without an owner, where only one entry's ids end so."""
    folded = name.casefold()
    if not folded or "/" in folded:
        return None
    ending = [
        model
        for model in index.models
        if any(folded == key.replace("\\", "/").casefold().rpartition("/")[2] for key in _list_ids(model))
    ]
    if len(ending) != 1:
        return None
    return _answer(index, asked, ending[0], Match.LISTED, f"of all ids only {ending[0].id} is called so")


def _leave_out_others(index: PublishedIndex, model: PublishedModel, digests: Collection[str]) -> PublishedModel:
    """Leave out what was found locally in other weights under the same name: a folder's content may change."""
    others = {source.key for source in index.sources if source.finding and source.finding.digest not in digests}

    def keep(effects: Iterable[Effect]) -> tuple[Effect, ...]:
        return tuple(effect for effect in effects if effect.source not in others)

    weights = tuple(
        weight.model_copy(update={"sources": kept, "effects": keep(weight.effects)})
        for weight in model.weights
        if (kept := tuple(key for key in weight.sources if key not in others))
    )
    remarks = tuple(remark for remark in model.remarks if not others & set(remark.sources))
    return model.model_copy(update={"weights": weights, "effects": keep(model.effects), "remarks": remarks})


def _list_ids(model: PublishedModel) -> Iterator[str]:
    yield model.id
    yield from model.aliases


def _answer(index: PublishedIndex, asked: str, model: PublishedModel, match: Match, because: str) -> Lookup:
    cited = list_citations(model)
    return Lookup(
        asked=asked,
        match=match,
        because=because,
        model=model,
        sources=tuple(source for key in cited for source in index.sources if source.key == key),
    )


def list_dose_curves(index: PublishedIndex, model: PublishedModel | None) -> tuple[DoseCurve, ...]:
    """List every curve of a model, and of other models those of perplexity, which can be compared.

    The model's own come first.
    """
    titles = {source.key: source.title for source in index.sources}
    curves = [
        DoseCurve(
            model=entry.id,
            quantity=curve.quantity,
            unit=curve.unit,
            points=tuple(sorted(curve.points)),
            source=titles[curve.source],
            own=model is not None and entry.id == model.id,
        )
        for entry in index.models
        for curve in entry.curves
    ]
    kept = [curve for curve in curves if curve.own or curve.is_perplexity_ratio]
    return tuple(sorted(kept, key=lambda curve: not curve.own))
