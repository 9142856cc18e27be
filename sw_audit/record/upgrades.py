"""Old records stay readable: each schema number knows the step to the next one.

A change of the record's form raises `Record.schema_number` by one and adds to `STEPS` the function that turns a
document of the old number into one of the new; golden records of every number stay in the tests for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from sw_audit.errors import RecordError
from sw_audit.policy.scheme import parse_scheme
from sw_audit.record.arm import SUBSET_PARTS

Document: TypeAlias = dict[str, Any]

CURRENT = 4

_OF_ONE_MODEL = {
    "locations": "location",
    "prompt_searches": "prompt_search",
    "comparisons": "comparison",
    "descents": "descent",
    "baselines": "baseline",
} | {
    name: name
    for name in (
        "protocol", "persistence", "mechanism", "published_doses", "published", "activations", "targets",
        "weights", "quantization", "decoder_weights", "notes", "seconds",
    )
}  # fmt: skip
"""What schema 1 keeps in a table by model id, and the field of the model's own result that it becomes."""
_ACTS = {"stand-in": "replace-layer", "borrow": "swap-modules"}
"""Kinds of acts that were renamed."""
_PLAIN = ("baseline", "pruned", "flipped", "other-outliers", "restored-activation", "parent", "descendant")
"""Arms whose name is the kind of their purpose."""
_TREATED = re.compile(r"(w\d+a\d+) (naive|hold-out|smoothquant|smoothquant searched)")
_ROUNDED = re.compile(r"(\S+) (plain|hold-out)")
_FIELDS = {"witness": "weight_norm_prediction"}
"""Fields that were renamed."""


def _gather_by_model(document: Document) -> Document:
    """From schema 1 to 2: a model holds everything about it, its verdicts included; words are renamed.

    1. What stood in a table by model id becomes a field of that model.
    2. Measurements and verdicts go to the model that they name; a finding whose label is the name of one of the
       model's arms is about that arm.
    3. A published curve of perplexity ratios is one by its unit.
    4. Models and failures become one list, in the order of the policy.
    """
    tables = {field: document.get(table, {}) for table, field in _OF_ONE_MODEL.items()}
    measurements, verdicts = document.get("measurements", []), document.get("verdicts", [])
    models = {}
    for identity in document.get("models", []):
        name = identity["id"]
        models[name] = {
            "kind": "result",
            "model": identity,
            "measurements": [measured for measured in measurements if measured["model"] == name],
            **{field: table[name] for field, table in tables.items() if name in table},
        }
    for failure in document.get("failures", []):
        models[failure["model"]] = {"kind": "failure", **failure}
    for name, model in models.items():
        arms = {measured["arm"]["name"] for measured in model.get("measurements", [])}
        model["verdicts"] = [_refer_to_arms(verdict, arms) for verdict in verdicts if verdict["model"] == name]
        if "published_doses" in model:
            model["published_doses"] = [
                {**curve, "unit": "perplexity ratio"} if "perplexity ratio" in curve["quantity"] else curve
                for curve in model["published_doses"]
            ]
    order = [model["id"] for model in document["policy"]["model"]]
    ranked = sorted(models, key=lambda name: order.index(name) if name in order else len(order))
    kept = {key: document[key] for key in ("tool", "created", "environment", "policy")}
    return {"schema": 2, **kept, "models": [_rename_words(models[name]) for name in ranked]}


def _refer_to_arms(verdict: Document, arms: Collection[str]) -> Document:
    if "findings" not in verdict:
        return verdict
    findings = [
        {**finding, "arm": finding["label"]} if finding["label"] in arms else finding
        for finding in verdict["findings"]
    ]
    return {**verdict, "findings": findings}


def _rename_words(part: Any) -> Any:
    if isinstance(part, list):
        return [_rename_words(element) for element in part]
    if not isinstance(part, dict):
        return part
    renamed = {_FIELDS.get(key, key): _rename_words(value) for key, value in part.items()}
    if "acts" in renamed:
        acts = [{**act, "kind": _ACTS.get(act["kind"], act["kind"])} for act in renamed["acts"]]
        return {"purpose": _read_purpose(renamed["name"], acts), "acts": acts}
    return renamed


def _read_purpose(name: str, acts: Sequence[Document]) -> Document:
    """Return what an arm is for, which schema 1 tells by its name alone."""
    head, _, rest = name.partition("/")
    if name in _PLAIN:
        return {"kind": name}
    if head in SUBSET_PARTS and rest.isdecimal():
        return {"kind": "subset", "part": head, "number": int(rest)}
    if head == "dose":
        return {"kind": "dose", "factor": float(rest)}
    if head == "placebo":
        control, _, draw = rest.partition("/")
        return {"kind": "placebo", "control": control, "draw": int(draw)}
    if name == "parent-super-weights":
        return {"kind": "restored-weights"}
    if head == "parent-module":
        return {"kind": "restored-module", "module": rest}
    if (treated := _TREATED.fullmatch(name)) is not None:
        scheme = parse_scheme(treated[1]).model_dump(mode="json")
        return {"kind": "activation-rounding", "scheme": scheme, "treatment": treated[2]}
    if any(act["kind"] == "replace-layer" for act in acts):
        return {"kind": "backend", "method": name}
    if (rounded := _ROUNDED.fullmatch(name)) is not None and len(acts) == 1:
        return {"kind": "rounding", "recipe": acts[0]["recipe"], "keep": rounded[2] == "hold-out"}
    return {"kind": "custom", "label": name}


def _forget_resamples(document: Document) -> Document:
    """From schema 2 to 3: intervals are computed and not drawn, so the policy does not say how often."""
    policy = {key: value for key, value in document["policy"].items() if key != "resamples"}
    return {**document, "policy": policy}


def _have_no_digest(document: Document) -> Document:
    """From schema 3 to 4: a record carries a digest of itself, which one of before cannot have."""
    return {key: value for key, value in document.items() if key != "digest"}


STEPS: Mapping[int, Callable[[Document], Document]] = {
    1: _gather_by_model,
    2: _forget_resamples,
    3: _have_no_digest,
}
"""From a schema number to the step that leads to the next one."""


def upgrade_document(
    document: Document,
    origin: str,
    *,
    current: int = CURRENT,
    steps: Mapping[int, Callable[[Document], Document]] = STEPS,
) -> Document:
    """Bring a record's JSON document to the current form.

    The document itself is not changed.

    Raises:
        RecordError: If the document has no schema number, or one that this version does not know.
    """
    asked, remedy = f"record {origin}", "give a record that sw-audit wrote"
    number = document.get("schema")
    if isinstance(number, bool) or not isinstance(number, int):
        raise RecordError(asked, "it has no schema number", f"{remedy} (record.json)")
    if number > current:
        problem = f"it is of schema {number}, newer than {current}, the newest that this version reads"
        raise RecordError(asked, problem, "install a newer sw-audit")
    if number < 1 or any(step not in steps for step in range(number, current)):
        raise RecordError(asked, f"schema {number} does not exist", remedy)
    for step in range(number, current):
        try:
            document = {**steps[step](document), "schema": step + 1}
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordError(asked, f"it is no record of schema {step}", remedy) from error
    return document
