"""What a record shows, and what it does not show, as sentences: one function per kind of fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from sw_audit.record.arm import Placebo
from sw_audit.record.descent import ComparedText
from sw_audit.record.identity import ModelIdentity, Protocol
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.redaction import describe_redactions
from sw_audit.record.standing import list_open
from sw_audit.record.verdict import Status, Verdict
from sw_audit_reports.text import count, format_number, join_words
from sw_audit_reports.verdicts import tally

Statement: TypeAlias = Callable[[Record], Iterable[str]]
"""Says what a record shows or lacks of one kind, a sentence each; nothing where there is nothing to say."""

_NAMED = 4
"""So many names of a kind are written; the others are counted."""


def _name(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    more = len(listed) - _NAMED
    return join_words([*listed[:_NAMED], f"{format_number(more)} more"] if more > 0 else listed)


def _list_texts(result: ModelResult) -> Iterator[Protocol]:
    texts: tuple[ComparedText, ...] = () if result.descent is None else result.descent.texts
    yield from dict.fromkeys([result.protocol, *(text.protocol for text in texts)])


def _list_judged(record: Record) -> list[Verdict]:
    return [verdict for verdict in record.verdicts if verdict.status is not Status.SKIPPED]


def _list_identities(record: Record) -> list[ModelIdentity]:
    parents = (result.descent.parent for result in record.results if result.descent is not None)
    return [*(result.model for result in record.results), *parents]


def tell_verdicts(record: Record) -> Iterator[str]:
    """How many checks were judged, how, and how they ended."""
    if judged := _list_judged(record):
        ended = ", ".join(badge.word for badge in tally(judged))
        checks = count(len({verdict.check for verdict in judged}), "check")
        yield f"{checks} judged on {count(len({one.model for one in judged}), 'model')}: {ended}"


def tell_rules(record: Record) -> Iterator[str]:
    """Where the rules and the limits stand, and what becomes of a doubt."""
    for strictness in dict.fromkeys(part.policy.inconclusive for part in record.parts):
        fate = "fails the run" if strictness == "fail" else "only warns"
        yield f"Every limit stands in the record's policy beside its figure; an undecided gate {fate}"


def tell_interventions(record: Record) -> Iterator[str]:
    """In how many edited forms models were measured."""
    if arms := [one.arm for result in record.results for one in result.measurements]:
        yield f"{count(len(arms), 'measurement')} of models as they are and as edited for a moment"


def tell_placebos(record: Record) -> Iterator[str]:
    """Whether the same was done to weights that should not matter."""
    arms = [one.arm for result in record.results for one in result.measurements]
    if placebos := sum(isinstance(arm.purpose, Placebo) for arm in arms):
        yield f"{count(placebos, 'placebo')}: the same edit of other weights, measured alike"


def tell_intervals(record: Record) -> Iterator[str]:
    """How many figures carry an interval."""
    figures = [verdict for verdict in _list_judged(record) if verdict.observed is not None]
    if sampled := [verdict for verdict in figures if verdict.low is not None or verdict.high is not None]:
        share = f"{format_number(len(sampled))} of {count(len(figures), 'judged figure')}"
        levels = dict.fromkeys(f"{100 * part.policy.confidence:g} %" for part in record.parts)
        yield f"{' or '.join(levels)} intervals on {share}"


def tell_metrics(record: Record) -> Iterator[str]:
    """Which figures were judged."""
    if names := _name(verdict.quantity for verdict in _list_judged(record) if verdict.quantity):
        yield f"Figures judged: {names}"


def tell_texts(record: Record) -> Iterator[str]:
    """On which texts, by digest, and how they were cut."""
    texts = list(dict.fromkeys(text for result in record.results for text in _list_texts(result)))
    for text in texts[:_NAMED]:
        yield f"Text `{text.corpus.sha256[:12]}` (sha256), protocol {text}"
    if len(texts) > _NAMED:
        yield f"{format_number(len(texts) - _NAMED)} more texts or cuts of them"


def tell_weights(record: Record) -> Iterator[str]:
    """Which weights, by digest."""
    if names := [f"{model.id} `{model.digest[:12]}`" for model in _list_identities(record) if model.digest]:
        yield f"Weights identified by the sha256 of their files: {_name(names)}"


def tell_files(record: Record) -> Iterator[str]:
    """Whether files were looked at without being run."""
    reports = [model.weights for model in record.models if model.weights is not None]
    if reports:
        serious = sum(report.serious for report in reports)
        found = f"{count(serious, 'serious flaw')} found" if serious else "no serious flaw found"
        files = count(sum(report.files for report in reports), "weight file")
        yield f"{files} looked at without running code: {found}"
        if held := sum(report.manifest for report in reports):
            yield f"Files of {count(held, 'model')} held against a manifest of digests"


def tell_parents(record: Record) -> Iterator[str]:
    """Which models were measured beside what they were made from."""
    held = [result for result in record.results if result.descent is not None]
    if held:
        parents = _name(result.descent.parent.id for result in held if result.descent is not None)
        yield f"{count(len(held), 'model')} measured beside the parent, window by window: {parents}"


def tell_baselines(record: Record) -> Iterator[str]:
    """Which models were held against an earlier record."""
    if held := [result.baseline for result in record.results if result.baseline is not None]:
        named = _name(f"{one.name} of {one.created[:10]}" for one in held)
        yield f"{count(len(held), 'model')} held against an earlier record: {named}"


def tell_gates(record: Record) -> Iterator[str]:
    """That there are gates which decide for or against a release."""
    gates = [verdict for verdict in _list_judged(record) if verdict.level == "gate"]
    if gates:
        yield f"{count(len(gates), 'gate')} judged: checks that one would stop a release for"


def tell_remedies(record: Record) -> Iterator[str]:
    """Which failed gates come with what to do."""
    failed = [one for model in record.models for one in list_open(model)]
    if advised := sum(one.remedy is not None for one in failed):
        yield f"{format_number(advised)} of {count(len(failed), 'open gate')} with what to do about it"


def tell_waivers(record: Record) -> Iterator[str]:
    """Who answers for what is other than PASS, and until when."""
    waived = [verdict for verdict in record.verdicts if verdict.waiver is not None]
    yield from (f"`{one.check}` on {one.model} waived {one.waiver}" for one in waived[:_NAMED])
    if len(waived) > _NAMED:
        yield f"{format_number(len(waived) - _NAMED)} more verdicts waived, each with owner, reason and last day"


def tell_log(record: Record) -> Iterator[str]:
    """When, with what, and on what it was measured."""
    for part in record.parts:
        environment, tool = part.environment, part.tool
        packages = [f"{name} {version}" for name, version in environment.packages.items() if name != tool.name]
        about = f"{_name(one.id for one in part.models)}: " if record.sources else ""
        yield f"{about}Dated {part.created}, written by {tool.name} {tool.version}"
        yield f"{about}Measured with Python {environment.python}, {_name(packages)}, on {environment.platform}"
        yield f"{about}Seed {part.policy.seed}; every figure is in the record, window by window"


def lack_models(record: Record) -> Iterator[str]:
    """Which models were not audited, or not to the end."""
    if record.failures:
        yield f"{count(len(record.failures), 'model')} not audited: {_name(one.id for one in record.failures)}"
    if stopped := [model.id for model in record.models if model.stopped]:
        yield f"The run ended before everything was measured: {_name(stopped)}"
    if not record.models:
        yield "No model was audited"


def lack_parents(record: Record) -> Iterator[str]:
    """Which models were not held beside what they were made from."""
    alone = [result.id for result in record.results if result.descent is None]
    if alone:
        yield f"No parent measured beside {_name(alone)}: what making it changed is not shown"


def lack_baselines(record: Record) -> Iterator[str]:
    """Which models were held against no earlier record."""
    if alone := [result.id for result in record.results if result.baseline is None]:
        yield f"No earlier record beside {_name(alone)}: no change over time is shown"


def lack_texts(record: Record) -> Iterator[str]:
    """Which models were measured on one text only."""
    single = [
        result.id for result in record.results if len({text.corpus.sha256 for text in _list_texts(result)}) == 1
    ]
    if single:
        yield f"One text only for {_name(single)}"


def lack_use(record: Record) -> Iterator[str]:
    """That a text is not what a model meets in use."""
    if record.results:
        yield "Whether the text is like what the model meets in use is not shown"


def lack_laws(record: Record) -> Iterator[str]:
    """What the effort left out."""
    if any(part.policy.effort == "quick" for part in record.parts):
        yield "Laws, the claims on how the weights act, were not measured under the effort `quick`"


def lack_checks(record: Record) -> Iterator[str]:
    """Which checks were skipped, and why."""
    reasons = Counter(verdict.because for verdict in record.verdicts if verdict.status is Status.SKIPPED)
    yield from (f"{count(times, 'verdict')} skipped: {because}" for because, times in reasons.most_common(2))
    if others := len(reasons) - 2 if len(reasons) > 2 else 0:
        yield f"Skipped for {count(others, 'other reason')}, each in the record"


def lack_decisions(record: Record) -> Iterator[str]:
    """Which verdicts are undecided, and which gates failed with nobody who answers for them."""
    opened = [one for model in record.models for one in list_open(model)]
    for status, words in ((Status.FAIL, "failed and not waived"), (Status.INCONCLUSIVE, "INCONCLUSIVE")):
        found = [one for one in opened if one.status is status]
        places = [f"{one.check} on {one.model}" for one in found]
        if len(places) > _NAMED:
            places = [
                f"{format_number(times)} on {model}"
                for model, times in Counter(one.model for one in found).items()
            ]
        if found:
            yield f"{count(len(found), 'gate')} {words}: {_name(places)}"
    laws = [one for one in record.verdicts if one.level == "law" and one.waiver is None]
    if doubtful := sum(one.status is Status.INCONCLUSIVE for one in laws):
        yield f"{count(doubtful, 'law')} undecided"


def lack_digests(record: Record) -> Iterator[str]:
    """Which weights are not identified."""
    unknown = [model.id for model in _list_identities(record) if not model.digest]
    if unknown:
        yield f"Weights not digested: {_name(unknown)}"


def lack_files(record: Record) -> Iterator[str]:
    """Which models' files were not looked at."""
    if unseen := [model.id for model in record.models if model.weights is None]:
        yield f"No static look at the files of {_name(unseen)}"


def lack_placebos(record: Record) -> Iterator[str]:
    """Where nothing says what the same edit does elsewhere."""
    if record.results and not list(tell_placebos(record)):
        yield "No placebo was measured: what the same edit does to other weights is not shown"


def lack_intervals(record: Record) -> Iterator[str]:
    """How many figures carry no interval."""
    figures = [one for one in _list_judged(record) if one.observed is not None]
    if plain := sum(one.low is None and one.high is None for one in figures):
        yield f"{count(plain, 'judged figure')} without an interval: counts and looks at files are no sample"


def lack_signature(record: Record) -> Iterator[str]:
    """That a record does not say who signed it, and what was taken out of it."""
    yield "No signature was looked for: a record holds none; `sw-audit verify` with a key tells of one beside it"
    if record.redacted:
        yield f"Left out of the record's texts: {describe_redactions(record.redacted)}"


def lack_owners(record: Record) -> Iterator[str]:
    """Who is responsible where no waiver says so."""
    if not any(verdict.waiver for verdict in record.verdicts):
        yield "The record names nobody who answers for the model: no waiver was needed or given"


def lack_harms(_: Record) -> Iterator[str]:
    """What no check of this program asks."""
    yield "Nothing on discriminatory impacts, on harmful content or on an intended use: no check asks that"


def lack_attacks(_: Record) -> Iterator[str]:
    """What no check asks of security."""
    yield "Nothing on adversarial inputs, on prompts that misuse the model or on the system around it"


def lack_training(_: Record) -> Iterator[str]:
    """What is not known of training data."""
    yield "Nothing on the data that the model was trained on; the record identifies what it was tested on"


def lack_operation(_: Record) -> Iterator[str]:
    """What is not known of a model in use."""
    yield "Nothing from operation: a record is of weights before or beside their use"


def lack_plan(_: Record) -> Iterator[str]:
    """What is not known of who acts."""
    yield "Who acts on a failed gate, and how, is not in the record"
