"""`python -m tools.real.in_engine`: gates a published model and GGUF descendants of it in llama.cpp.

Options are those of `sw-audit audit`. Known is: as published, its engine agrees with its files; the one
in 8 bits passes every gate; each other one fails the gate that is about what was done to it.

Exit codes: 0 as known, 1 a verdict is another, 2 the model cannot be fetched.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.engine_agrees import engine_agrees
from sw_audit.checks.explain import breaches
from sw_audit.checks.perplexity_ratio import perplexity_ratio
from sw_audit.checks.settings_as_parent import settings_as_parent
from sw_audit.checks.super_weight_retained import super_weight_retained
from sw_audit.checks.tensors_in_place import tensors_in_place
from sw_audit.cli.printing import Output, make_table
from sw_audit.policy.model_policy import ModelPolicy
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Status
from sw_audit.runner.single import locate_model
from tools.real.auditing import CACHE, OUT, ROOT, audit, summarize
from tools.real.fetching import FetchError, fetch_model
from tools.real.gguf_descendants import make_gguf_descendants

BROKEN: Mapping[str, str] = MappingProxyType(
    {
        "scale-doubled": super_weight_retained.id,
        "swapped": tensors_in_place.id,
        "rope-base": settings_as_parent.id,
        "template": settings_as_parent.id,
        "q5_1": perplexity_ratio.id,
        "q4_0": perplexity_ratio.id,
    }
)
"""The gate that each broken descendant has to fail."""
SOUND = ("as-published", "q8_0")


def main(options: Sequence[str] = ()) -> int:
    """Run it all with some options, and return the exit code."""
    output, begun = Output(), time.monotonic()
    try:
        model = fetch_model(CACHE)
    except FetchError as error:
        sys.stderr.write(f"make real: {error}\n")
        return 2
    [weight, *_] = locate_model(open_checkpoint(ModelPolicy(source=str(model)))).super_weights
    for file in make_gguf_descendants(model, CACHE / "gguf", weight):
        output.print_lines(f"made {file.relative_to(ROOT)}")
    _, record = audit("engine", *options)
    wrong = [line for result in record.results for line in check_result(result)]
    missing = {*SOUND, *BROKEN} - {result.id for result in record.results}
    wrong += [f"{name} was not audited" for name in sorted(missing)]
    output.print(
        make_table(("model", "gates", "failed gates", "laws that do not hold"), map(summarize, record.results))
    )
    output.print_lines(f"reports in {OUT.relative_to(ROOT)}; {time.monotonic() - begun:.0f} s")
    output.print_lines(*(f"not as known: {line}" for line in wrong) if wrong else ["every verdict is as known"])
    return 1 if wrong else 0


def check_result(result: ModelResult) -> Iterator[str]:
    """Yield what is not as known of one model."""
    failed = {verdict.check: verdict for verdict in result.verdicts if breaches(verdict, "fail")}
    if result.id in SOUND:
        yield from (f"{result.id} is sound: {name}: {one.because}" for name, one in failed.items())
    elif (name := BROKEN[result.id]) not in failed or failed[name].status is not Status.FAIL:
        yield f"{result.id} is broken, and {name} does not fail"
    if engine_agrees.id in failed:
        yield f"{result.id}: {failed[engine_agrees.id].because}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
