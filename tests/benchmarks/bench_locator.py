"""Recall and precision of the locator on the generated suite, beside the naive method (`make bench`)."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from support.suite import FAMILIES, RELATIVE, SWEEP, Result, Score, judge_model

from sw_audit.locate.settings import DEFAULT_SETTINGS
from sw_audit.testing.designs import SHAPES, TRAPS

MODELS = 520
SWEPT = 260
WORKERS = 2


def total(scores: Sequence[Score]) -> Score:
    return sum(scores, Score())


def percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


def write_row(name: str, results: Sequence[Result], best: int) -> str:
    ours = total([one.ours for one in results])
    exact = sum(one.ours.missed == one.ours.false == 0 for one in results)
    cells = [name, str(len(results)), str(ours.found + ours.missed), f"{exact} of {len(results)}"]
    for one in (ours, total([one.absolute for one in results]), total([one.relative[best] for one in results])):
        cells += [percent(one.recall), percent(one.precision), str(one.false)]
    return f"| {' | '.join(cells)} |"


def print_table(
    title: str, groups: dict[str, Callable[[Result], bool]], results: Sequence[Result], best: int
) -> None:
    naive = f"naive > {RELATIVE[best]:g} medians"
    heads = [title, "models", "super weights", "exactly right"]
    for method in ("ours", "naive > 50", naive):
        heads += [f"{method}: recall", "precision", "false"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, belongs in groups.items():
        chosen = [one for one in results if belongs(one)]
        if chosen:
            print(write_row(name, chosen, best))


def print_early(results: Sequence[Result]) -> None:
    scores = [one.early for one in results if one.early is not None]
    whole = total(scores)
    print(
        f"\n`--depth early`, {len(scores)} models whose super weights lie in what it reads (but its last layer): ",
        end="",
    )
    print(f"recall {percent(whole.recall)}, precision {percent(whole.precision)}, {whole.false} false")


def print_sweep(results: Sequence[Result]) -> None:
    swept = [one for one in results if one.sweep]
    print(f"\nOne threshold moved at a time, {len(swept)} models; the value in use is marked.")
    print("| threshold | value | recall | precision | false |\n|---|---|---|---|---|")
    for name, values in SWEEP.items():
        for value in values:
            at = total([one.sweep[name, value] for one in swept])
            used = " (used)" if value == getattr(DEFAULT_SETTINGS, name) else ""
            print(f"| {name} | {value:g}{used} | {percent(at.recall)} | {percent(at.precision)} | {at.false} |")


def test_recall_and_precision_on_the_generated_suite() -> None:
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        results = list(pool.map(partial(judge_model, sweep=True), range(SWEPT), chunksize=8))
        results += pool.map(judge_model, range(SWEPT, MODELS), chunksize=8)
    seconds = time.perf_counter() - started
    scores = [total([one.relative[number] for one in results]).harmonic_mean for number in range(len(RELATIVE))]
    best = scores.index(max(scores))
    print(f"\n{MODELS} generated models, {seconds:.0f} seconds with {WORKERS} processes")
    print(
        "The naive method: each layer's largest |input| and |output|, both over a threshold; the relative one is"
    )
    print(f"the best of {', '.join(f'{times:g}' for times in RELATIVE)} for this very suite.")
    everything = {"all": lambda _: True}
    families = {name: partial(lambda name, one: one.design.family == name, name) for name in FAMILIES}
    traps = {name: partial(lambda name, one: name in one.design.traps, name) for name in TRAPS}
    shapes = {name: partial(lambda name, one: one.design.shape == name, name) for name in (*SHAPES, "none")}
    dtypes = {
        name: partial(lambda name, one: one.design.dtype == name, name)
        for name in ("float32", "bfloat16", "float16")
    }
    starts = {
        name: partial(lambda name, one: one.design.start == name, name) for name in ("bos", "first", "delimiter")
    }
    print_table("family", families | everything, results, best)
    print_table("trap", {"no trap": lambda one: not one.design.traps} | traps, results, best)
    print_table("shape", shapes, results, best)
    print_table("dtype, place", dtypes | starts, results, best)
    print_early(results)
    print_sweep(results)
    wrong = [one for one in results if one.ours.missed or one.ours.false]
    for one in wrong:
        print(f"wrong: {one.number} {one.ours} {one.design}")
    assert not wrong
