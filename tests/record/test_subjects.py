from __future__ import annotations

from support.descent import make_descent_evidence
from support.evidence import compose, make_evidence

from sw_audit.record.identity import FileDigest
from sw_audit.record.subjects import list_subjects


def test_models_and_parents_are_listed_once_and_the_base_of_an_adapter_apart() -> None:
    pair = make_descent_evidence()
    assert pair.descent is not None
    base, own = (
        FileDigest(path=path, size=1, sha256=path) for path in ("base/model.safetensors", "a.safetensors")
    )
    adapter = make_evidence("lora")
    identity = adapter.model.model_copy(update={"files": (own, base)})
    record = compose(pair, pair, adapter.model_copy(update={"model": identity}), make_evidence("none", windows=8))
    *known, last = list_subjects(record)
    assert [(one.name, [file.path for file in one.files]) for one in known] == [
        (pair.id, ["model.safetensors"]),
        (pair.descent.parent.id, ["model.safetensors"]),
        ("lora", ["a.safetensors"]),
        ("lora (base)", ["model.safetensors"]),
    ]
    assert last.name == "none"
    assert last.source == "models/none"
