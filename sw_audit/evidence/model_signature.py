"""Whether what was audited is what was signed with OpenSSF model-signing (https://model-signing.org).

Its `model.sig` is a Sigstore bundle over an in-toto statement that lists the files of a model by their digests.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sw_audit.errors import InputError
from sw_audit.evidence.files import locate_weights
from sw_audit.evidence.signature import read_file, requiring
from sw_audit.record.store import Doubt
from sw_audit.record.subjects import Subject

NAME = "model.sig"
"""How the signature in a model's folder is called."""
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def verify_model_signatures(
    subjects: Sequence[Subject], given: Sequence[str], signature: Path | None = None, key: Path | None = None
) -> tuple[list[str], list[Doubt]]:
    """Hold what was signed against the digests of a record.

    Args:
        subjects: The weights that the record knows.
        given: Folders or files of models, or `ID=PATH`; the signatures are those that lie with them.
        signature: A file to take instead.
        key: The signer's public key, in PEM, with which each of these must be signed. Without it nobody knows
            who signed.

    Returns:
        The names of subjects that are what was signed, and what differs.

    Raises:
        InputError: If there is a key and no signature or no folder, or a package or a file is missing.
    """
    located = [locate_weights(word, subjects) for word in given]
    models = [(known, path if path.is_dir() else path.parent) for known, path in located]
    signed: list[tuple[Path, Sequence[Subject], Path | None]]
    if signature is None:
        wanted = ((root / NAME, known, root) for known, root in models)
        signed = [one for one in wanted if key is not None or one[0].is_file()]
    else:
        [(known, root)] = models if len(models) == 1 else [(list(subjects), None)]
        signed = [(signature, known, root)]
    if key is not None and (not signed or any(root is None for _, _, root in signed)):
        found = "there is no signed model to hold it against"
        raise InputError(
            f"--model-key {key}", found, f"name one model's folder, and its signature unless it is {NAME}"
        )
    same: list[str] = []
    doubts: list[Doubt] = []
    for file, known, root in signed:
        place = f"model signature {file}"
        name, differing = _compare_files(file, place, known)
        if key is not None and root is not None:
            differing += _verify_key(file, place, root, key)
        doubts += differing
        same += [] if differing else [name]
    return same, doubts


def _compare_files(file: Path, place: str, subjects: Sequence[Subject]) -> tuple[str, list[Doubt]]:
    """Return whose files were signed, and name those that were audited and not signed, or otherwise."""
    text = read_file(file, place)
    try:
        statement = json.loads(b64decode(json.loads(text)["dsseEnvelope"]["payload"], validate=True))
        kind, predicate = statement["predicateType"], statement["predicate"]
        if kind == PREDICATE_TYPE:
            serialization = predicate["serialization"]
            form = serialization["method"], serialization["hash_type"]
            digests: dict[str, Any] = {one["name"]: one["digest"] for one in predicate["resources"]}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        return "", [Doubt(place, f"it is no bundle with a statement ({type(error).__name__}: {error})")]
    if kind != PREDICATE_TYPE:
        return "", [Doubt(place, f"its predicate is {kind!r}, and only {PREDICATE_TYPE!r} is known", open=True)]
    if form != ("files", "sha256"):
        found = f"it signs {form[0]} by {form[1]}, and a record knows whole files by sha256"
        return "", [Doubt(place, found, open=True)]

    def count_same(subject: Subject) -> int:
        return sum(digests.get(one.path) == one.sha256 for one in subject.files)

    closest = max(subjects, key=count_same, default=None)
    if closest is None or (len(subjects) > 1 and not count_same(closest)):
        names = ", ".join(subject.name for subject in subjects) or "none"
        return "", [Doubt(place, f"it signs the weights of no model that was audited ({names})")]
    return closest.name, list(_compare_digests(closest, digests, place))


def _compare_digests(subject: Subject, digests: Mapping[str, Any], place: str) -> Iterator[Doubt]:
    for one in subject.files:
        signed, where = digests.get(one.path), f"{place}: {subject.name}/{one.path}"
        if signed is None:
            yield Doubt(where, "it was audited, and is not among what was signed")
        elif signed != one.sha256:
            yield Doubt(where, f"sha256 {signed} was signed, and {one.sha256} was audited")


def _verify_key(file: Path, place: str, root: Path, key: Path) -> list[Doubt]:
    """Let model-signing verify signature and folder."""
    read_file(key, f"--model-key {key}")
    with requiring(f"--model-key {key}", "model-signing"):
        from cryptography.exceptions import InvalidSignature
        from model_signing.verifying import Config
    try:
        verifier = Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # what it raises has no class in common
        raise InputError(
            f"--model-key {key}", f"{error}", "give the public half of an ECDSA key in PEM"
        ) from error
    try:
        verifier.verify(root, file)
    except InvalidSignature:
        return [Doubt(place, f"it is not what {key.name} signed: the signature or what it signs was changed")]
    except Exception as error:  # what it raises has no class in common
        return [Doubt(place, f"model-signing does not verify it ({type(error).__name__}: {error})")]
    return []
