"""Checkpoints broken in silence that every named check has to catch, and sound ones that none may fail."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from sw_audit.checks.explain import FAILED, INCONCLUSIVE, PASSED
from sw_audit.policy.model_policy import ModelPolicy
from tools.broken.catalogue import CATALOGUE, Broken
from tools.broken.judging import Outcome, judge_broken, judge_broken_files, judge_sound
from tools.broken.settings import SETTINGS
from tools.broken.sound import FORMS, Form, Workshop
from tools.real.descendants import make_descendants
from tools.real.fetching import FetchError, fetch_model
from tools.soak.pages import make_table, write_between

ROOT = Path(__file__).parents[2]
PAGE, CACHE = ROOT / "docs" / "robustness.md", ROOT / ".cache" / "real"
PUBLISHED = (
    "eos-everywhere", "repetition-penalty", "sampling", "positions-cut", "activation-gelu", "rope-base",
    "norm-epsilon", "words-shifted", "two-words-swapped", "merges-reordered",
    "template-instructs", "template-lost", "matrices-swapped", "layer-repeated", "heads-permuted",
    "flipped", "embedding-row-zeroed", "gate-rows-zeroed", "row-negated", "norm-of-ones", "one-nan",
)  # fmt: skip
"""Ways that the published model is broken in as well."""


def soak_broken() -> int:
    """Break the specimen in every way and the published model in some; return how many were not caught."""
    with tempfile.TemporaryDirectory() as place:
        found = list(_break_all(Workshop(Path(place))))
    write_between(PAGE, "broken", make_table(list_broken(found)))
    if published := list(_break_published()):
        write_between(PAGE, "broken published", make_table(list_broken(published)))
    return sum(outcome is not None and not is_caught(way, outcome) for way, outcome in (*found, *published))


def soak_sound() -> int:
    """Write the specimen in every form; return how many a gate fails."""
    found: list[tuple[Form, Outcome | None]] = []
    with tempfile.TemporaryDirectory() as place:
        workshop = Workshop(Path(place))
        for form in FORMS.values():
            outcome = None if form.missing else judge_sound(workshop, form)
            told = f"left out, it needs {', '.join(form.missing)}" if outcome is None else tell(outcome)
            _print(f"{form.name}: {told}")
            found.append((form, outcome))
    write_between(PAGE, "sound", make_table(list_sound(found)))
    return sum(outcome is not None and is_wronged(outcome) for _, outcome in found)


SOUND_CODES = (PASSED, INCONCLUSIVE)
"""How a sound one may end: few windows leave some verdicts open."""


def is_caught(way: Broken, outcome: Outcome) -> bool:
    """Tell whether every check that must fail did, and the audit with it; of known gaps nothing is asked."""
    return not way.caught_by or (not outcome.missed and outcome.code == FAILED)


def tell(outcome: Outcome) -> str:
    """Sum an outcome up in a line."""
    failed = ", ".join(outcome.failed) or "no gate"
    missed = f"; MISSED by {', '.join(outcome.missed)}" if outcome.missed else ""
    return f"exit code {outcome.code}, failed: {failed}{missed} ({outcome.seconds:.1f} s) {outcome.because}"


def list_broken(found: Iterable[tuple[Broken, Outcome | None]]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: what was done, which check has to catch it, and what else does."""
    yield "kind", "broken", "what was done", "caught by", "other gates that fail"
    for way, outcome in found:
        if outcome is None:
            others = f"not run: needs {', '.join(FORMS[way.form].missing)}"
        elif not way.caught_by and not outcome.failed:
            others = f"**slips through** (exit code {outcome.code})"
        elif is_caught(way, outcome):
            others = ", ".join(check for check in outcome.failed if check not in way.caught_by) or "-"
        else:
            others = f"**not caught** (exit code {outcome.code})"
        yield way.kind, way.name, way.what, ", ".join(f"`{check}`" for check in way.caught_by) or "-", others


def list_sound(found: Iterable[tuple[Form, Outcome | None]]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: the forms of each kind, and the gates that fail them."""
    yield "kind", "forms", "how many", "failed"
    groups: dict[str, list[tuple[Form, Outcome | None]]] = defaultdict(list)
    for form, outcome in found:
        groups[form.kind].append((form, outcome))
    for kind, group in groups.items():
        judged = [(form, outcome) for form, outcome in group if outcome is not None]
        wrong = [f"{form.name}: {outcome.because}" for form, outcome in judged if is_wronged(outcome)]
        names = ", ".join(form.name for form, _ in judged)
        left_out = ", ".join(form.name for form, outcome in group if outcome is None)
        yield (
            kind,
            names + (f" (not run: {left_out})" if left_out else ""),
            str(len(judged)),
            "; ".join(wrong) or "0",
        )


def is_wronged(outcome: Outcome) -> bool:
    """Tell whether a sound one is failed, or refused."""
    return bool(outcome.failed) or outcome.code not in SOUND_CODES


def _break_published() -> Iterator[tuple[Broken, Outcome | None]]:
    """Break the published model; its form in the layout of transformers is the one that was rounded to 8 bits."""
    try:
        model = fetch_model(CACHE)
    except FetchError as error:
        _print(f"the published model is left out: {error}")
        return
    plain = CACHE / "descendants" / "int8-g64"
    if not plain.exists():
        list(make_descendants(ModelPolicy(source=str(model)), plain.parent, [plain.name]))
    # A folder beside it, for copies are links. A GGUF file says nothing of sampling and the like.
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        others = {"chat": "plain", "pairs": "plain"}
        beside = {parent: Workshop(Path(place), parent, plain, others) for parent in (model, plain)}
        for name in PUBLISHED:
            way = CATALOGUE[name]
            workshop = beside[plain if SETTINGS in way.caught_by else model]
            outcome = judge_broken_files(workshop, way)
            _print(f"{name}: {tell(outcome)}")
            yield way, outcome


def _break_all(workshop: Workshop) -> Iterator[tuple[Broken, Outcome | None]]:
    for way in CATALOGUE.values():
        outcome = None if FORMS[way.form].missing else judge_broken(workshop, way)
        _print(f"{way.name}: {'left out' if outcome is None else tell(outcome)}")
        yield way, outcome


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
