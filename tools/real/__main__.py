"""`python -m tools.real`: audits a published model, gates its descendants, and holds both against what is known.

Options are those of `sw-audit audit`, such as `--effort thorough`, which takes longer and has to say the same.

The model is SmolLM2-135M-Instruct, fetched once. Known is: by itself it passes, every gate of it, and under
`--strict` it fails by a law; its sound descendants pass, its broken ones fail and each failure says what to do.

Exit codes: 0 as known, 1 a verdict is another, 2 the model cannot be fetched.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sw_audit.checks.critical_scalars_retained import critical_scalars_retained
from sw_audit.checks.explain import FAILED, PASSED, breaches
from sw_audit.cli.printing import Output, make_table
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.published import Match
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.store import read_record
from sw_audit.record.verdict import Status, Verdict
from tools.real.auditing import CACHE, OUT, ROOT, audit, summarize
from tools.real.descendants import make_descendants
from tools.real.fetching import FetchError, fetch_model

SOUND: Mapping[str, bool] = MappingProxyType(
    {"int8-g64": True, "int4-g32": True, "clipped": False, "halved": False, "zeroed": False, "gain-halved": False}
)
"""Whether each descendant is known to be sound."""
GAIN = ScalarAddress(parameter="model.norm.weight", index=(17,))
"""The scalar of the model that costs most alone, and is half of what it was in `gain-halved`."""


def main(options: Sequence[str] = ()) -> int:
    """Run it all, each audit with some options, and return the exit code."""
    output, begun = Output(), time.monotonic()
    try:
        model = fetch_model(CACHE)
    except FetchError as error:
        sys.stderr.write(f"make real: {error}\n")
        return 2
    fetched = time.monotonic()
    wrong = list(check_model(audit("model", *options)))
    output.print_lines(f"the audit took {time.monotonic() - fetched:.0f} s")
    code = audit("model", *options, "--strict", "--no-report", "--quiet", out="strict")[0]
    wrong += [] if code == FAILED else [f"the model under --strict: exit code {code}, and not {FAILED}"]
    names, halved = [name for name in SOUND if name != "gain-halved"], {"gain-halved": GAIN}
    for folder in make_descendants(ModelPolicy(source=str(model)), CACHE / "descendants", names, halved):
        output.print_lines(f"made {folder.relative_to(ROOT)}")
    code, record = audit("descendants", *options)
    wrong += [] if code == FAILED else [f"the descendants: exit code {code}, and not {FAILED}"]
    wrong += [line for result in record.results for line in check_descendant(result)]
    wrong += [f"{name} was not audited" for name in SOUND if name not in {result.id for result in record.results}]
    rows = [summarize(result) for result in (*read_record(OUT / "model" / "record.json").results, *record.results)]
    output.print(make_table(("model", "gates", "failed gates", "laws that do not hold"), rows))
    output.print_lines(f"reports in {OUT.relative_to(ROOT)}; {time.monotonic() - begun:.0f} s")
    output.print_lines(*(f"not as known: {line}" for line in wrong) if wrong else ["every verdict is as known"])
    return 1 if wrong else 0


def check_model(outcome: tuple[int, Record]) -> Iterator[str]:
    """Yield what is not as known of the model by itself."""
    code, record = outcome
    if code != PASSED:
        yield f"the model by itself: exit code {code}, and not {PASSED}"
    if any(result.published is None or result.published.match is not Match.DIGEST for result in record.results):
        yield "the model by itself: its entry in the index was not found by its sha256"
    for verdict in record.verdicts:
        if breaches(verdict, "fail"):
            yield f"the model by itself: {verdict.check} is {verdict.status}: {verdict.because}"
        if verdict.level == "law" and verdict.status is not Status.SKIPPED and verdict.observed is None:
            yield f"the model by itself: {verdict.check} gives no figure: {verdict.because}"


def check_descendant(result: ModelResult) -> Iterator[str]:
    """Yield what is not as known of one descendant."""
    failed = [verdict for verdict in result.verdicts if breaches(verdict, "fail")]
    if not SOUND[result.id] and not any(verdict.status is Status.FAIL for verdict in failed):
        yield f"{result.id} is broken, and no gate fails"
    if result.id == "gain-halved" and not any(_names_gain(verdict) for verdict in failed):
        yield f"{result.id}: {critical_scalars_retained.id} does not name {GAIN}"
    for verdict in failed:
        if SOUND[result.id]:
            yield f"{result.id} is sound: {verdict.check} is {verdict.status}: {verdict.because}"
        elif not verdict.remedy:
            yield f"{result.id}: {verdict.check} is {verdict.status} and does not say what to do"


def _names_gain(verdict: Verdict) -> bool:
    told = [finding.label for finding in verdict.findings if finding.status is Status.FAIL]
    return verdict.check == critical_scalars_retained.id and str(GAIN) in told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
