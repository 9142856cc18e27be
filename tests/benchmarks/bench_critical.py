"""The search for critical scalars: what it finds, what it costs, and what other rankings find (`make bench`).

SmolLM2-135M-Instruct is the file that `SW_AUDIT_BENCH_MODEL` names, or that of `make real`; the text of its known
scalars, the test part of wikitext-2 as one file, is what `SW_AUDIT_BENCH_TEXT` names.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from support.benchmarks import find_published, run_plainly, take_seconds
from support.critical_suite import Judged, judge_model, list_alone, list_known, open_specimen, read_known

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.parameters import list_parameters
from sw_audit.corpus.windows import Windows
from sw_audit.critical.gradients import Scored, cut_pieces, rank_scalars
from sw_audit.critical.search import CANDIDATES, find_critical_scalars
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import CorpusPolicy, CriticalPolicy, ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.testing.critical_models import FAMILIES, KINDS, measure_nats, measure_zeroed

MODELS = 200
WORKERS = 2
SORTS = ("alone", "together", "masks")
BUDGETS = (8, 16, 32, 64, 128, 256)
"""Candidates of searches, for a curve."""
PLAIN_TOKENS = 2048


def print_rows(title: str, groups: Mapping[str, Callable[[Judged], bool]], results: Sequence[Judged]) -> None:
    heads = [title, "models", *(f"{sort}: found" for sort in SORTS), "recall", "false", "inert planted", "passes"]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, belongs in groups.items():
        chosen = [one for one in results if belongs(one)]
        wanted = {sort: sum(one.wanted[sort] for one in chosen) for sort in SORTS}
        missed = {sort: sum(len(one.missed[sort]) for one in chosen) for sort in SORTS}
        found = [f"{wanted[sort] - missed[sort]} of {wanted[sort]}" if wanted[sort] else "-" for sort in SORTS]
        every = sum(wanted.values())
        recall = f"{1 - sum(missed.values()) / every:.1%}" if every else "-"
        false, inert = (
            sum(counts) for counts in zip(*((len(one.false), one.inert) for one in chosen), strict=True)
        )
        passes = sum(one.passes for one in chosen) / len(chosen)
        print(
            f"| {' | '.join([name, str(len(chosen)), *found, recall, str(false), str(inert), f'{passes:.0f}'])} |"
        )


def test_recall_on_planted_models() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        results = list(pool.map(judge_model, range(MODELS), chunksize=4))
    print(f"\n{MODELS} planted models, each searched on its own text")
    print_rows("all", {"all": lambda _: True}, results)
    print_rows("planted", {kind: partial(lambda kind, one: one.kind == kind, kind) for kind in KINDS}, results)
    families = {name: partial(lambda name, one: one.family == name, name) for name in FAMILIES}
    print_rows("family", families, results)
    for one in results:
        for sort, missed in one.missed.items():
            if missed:
                print(f"missed {sort}, number {one.number} ({one.family}, {one.kind}): {', '.join(missed)}")
        if one.false:
            print(f"false, number {one.number} ({one.family}, {one.kind}): {', '.join(one.false)}")


def tell_difference(search: CriticalSearch, known: Mapping[ScalarAddress, float], limit: float) -> None:
    """Print what a search missed of the known scalars from a ratio on, and what it found beyond them."""
    found = list_alone(search)
    wanted = {address: ratio for address, ratio in known.items() if ratio >= limit}
    missed = {address: ratio for address, ratio in wanted.items() if address not in found}
    print(f"\nat {limit}: {len(wanted) - len(missed)} of {len(wanted)} found")
    for address, ratio in missed.items():
        print(f"missed: {address}, {ratio:.4f} times")


def count_passes(seconds: float, checkpoint: Checkpoint) -> float:
    """Return seconds of the processor in plain passes of 2,048 tokens, in windows of 64."""
    token_ids = torch.randint(3, checkpoint.vocabulary, (PLAIN_TOKENS // 64, 64))
    windows = Windows(token_ids, torch.ones(len(token_ids), dtype=torch.long))
    return seconds / min(take_seconds(lambda: run_plainly(checkpoint, windows))[1] for _ in range(2))


def test_the_published_model() -> None:
    path, text = find_published(), os.environ.get("SW_AUDIT_BENCH_TEXT")
    if path is None:
        pytest.skip("SmolLM2-135M-Instruct is not here: `make real` fetches it, SW_AUDIT_BENCH_MODEL names it")
    if text is None:
        pytest.skip("SW_AUDIT_BENCH_TEXT does not name the text of the known scalars (wikitext-2, test part)")
    checkpoint = open_checkpoint(ModelPolicy(source=str(path)))
    known = list_known(read_known("smollm2-critical-scalars")["scalars"])
    words = Path(text).read_text(encoding="utf-8")[:6000]
    token_ids = checkpoint.tokenizer(words, add_special_tokens=False)["input_ids"]
    rows = torch.tensor([[1, *token_ids[first : first + 96]] for first in (0, 96)])
    windows = Windows(rows, torch.ones(2, dtype=torch.long), bos=1)
    location = locate_super_weights(checkpoint)
    searches: list[CriticalSearch] = []
    _, seconds = take_seconds(lambda: searches.append(find_critical_scalars(checkpoint, windows, location)))
    [search] = searches
    tell_difference(search, known, 1.3)
    tell_difference(search, known, search.minimum_ratio)
    parameters = {one.name: one for one in list_parameters(checkpoint)}
    base = measure_nats(checkpoint, rows)
    found = list_alone(search)
    truth = {
        address: known.get(address) or math.exp(measure_zeroed(checkpoint, parameters, rows, [address]) - base)
        for address in found
    }
    false = {address: ratio for address, ratio in truth.items() if ratio < 1.05}
    print(f"{len(found)} called critical alone, {len(false)} of them below 1.05: {', '.join(map(str, false))}")
    new = {address: ratio for address, ratio in truth.items() if address not in known}
    print("not among the known 300:", ", ".join(f"{address} x{ratio:.2f}" for address, ratio in new.items()))
    print(f"cost on this text: {count_passes(seconds, checkpoint):.1f} plain passes of {PLAIN_TOKENS} tokens")
    print(f"({search.questions} questions, {search.tokens:.0f} tokens)")
    _, seconds = take_seconds(lambda: find_critical_scalars(checkpoint, CorpusPolicy(source="english"), location))
    print(f"cost on the English text: {count_passes(seconds, checkpoint):.1f} plain passes (target 15)")


def test_the_specimen_against_an_exhaustive_search() -> None:
    checkpoint, windows, known = open_specimen()
    location = locate_super_weights(checkpoint)
    limits = CriticalPolicy()
    wanted = {address for address, ratio in known.items() if ratio >= limits.minimum_ratio}
    print(f"\nthe specimen: {len(wanted)} of its scalars reach {limits.minimum_ratio}")
    for candidates in (CANDIDATES, 2 * CANDIDATES):
        searches: list[CriticalSearch] = []
        policy = CriticalPolicy(candidates=candidates)
        _, seconds = take_seconds(
            lambda policy=policy, searches=searches: searches.append(  # type: ignore[misc]
                find_critical_scalars(checkpoint, windows, location, policy)
            )
        )
        [search] = searches
        beyond = list_alone(search).keys() - wanted
        print(f"\n{candidates} candidates: {count_passes(seconds, checkpoint):.1f} plain passes")
        tell_difference(search, known, limits.minimum_ratio)
        print(f"called critical beyond them: {', '.join(map(str, beyond)) or 'none'}")


def test_effect_found_per_pass() -> None:
    """Nats of the distinct scalars found, against passes over the text; a zeroing is a pass."""
    checkpoint, windows, known = open_specimen()
    location, limit = locate_super_weights(checkpoint), CriticalPolicy().minimum_ratio
    worth = {address: math.log(ratio) for address, ratio in known.items() if ratio >= limit}
    ranking = rank_scalars(checkpoint, cut_pieces(windows), products=1024)
    rankings = {
        "gradient": list_ranked(ranking.by_gradient),
        "largest product W x": list_ranked(ranking.by_product),
        "largest w": rank_by_size(checkpoint),
    }
    size = sum(one.size for one in list_parameters(checkpoint))
    print(f"\nnats of scalars at {limit} or more, of {sum(worth.values()):.1f} in {len(worth)} scalars")
    print("| candidates | passes | search | " + " | ".join(rankings) + " | random |")
    print("|---|---|---|" + "---|" * (len(rankings) + 1))
    for candidates in BUDGETS:
        policy = CriticalPolicy(candidates=candidates, interventions=("zero",))
        search = find_critical_scalars(checkpoint, windows, location, policy)
        passes = round(search.tokens / windows.token_ids.numel())
        found = sum(worth.get(address, 0.0) for address in list_alone(search))
        others = [sum(worth.get(address, 0.0) for address in ranked[:passes]) for ranked in rankings.values()]
        others.append(sum(worth.values()) * passes / size)
        print(f"| {candidates} | {passes} | {found:.2f} | {' | '.join(f'{one:.2f}' for one in others)} |")


def list_ranked(scored: Sequence[Scored]) -> list[ScalarAddress]:
    return [ScalarAddress(parameter=one.parameter.name, index=one.index) for one in scored]


def rank_by_size(checkpoint: Checkpoint, count: int = 1024) -> list[ScalarAddress]:
    """Return the scalars of the largest magnitude as they are applied, largest first."""
    entries = []
    for parameter in list_parameters(checkpoint):
        sizes = (parameter.weight + parameter.offset).abs().flatten()
        values, places = sizes.topk(min(count, len(sizes)))
        for value, place in zip(values.tolist(), places, strict=True):
            index = tuple(int(one) for one in torch.unravel_index(place, parameter.shape))
            entries.append((value, ScalarAddress(parameter=parameter.name, index=index)))
    return [address for _, address in sorted(entries, key=lambda entry: -entry[0])[:count]]
