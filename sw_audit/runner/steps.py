"""Evidence in steps: which arms go on after each; how far each goes is planned in `sw_audit.corpus.looks`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sw_audit.record.verdict import Finding, Status, Verdict


def list_waiting(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that more text or items may settle."""
    return [verdict for verdict in verdicts if verdict.undecided]


def list_open_arms(waiting: Iterable[Verdict]) -> set[str]:
    """Return the names of the arms that verdicts wait for."""
    return {name for verdict in waiting for name in _list_arms(verdict)}


def waits_for_items(waiting: Iterable[Verdict]) -> bool:
    """Whether a verdict waits for multiple-choice items."""
    return any(verdict.evidence is not None and verdict.evidence.unit == "items" for verdict in waiting)


def _list_arms(verdict: Verdict) -> Sequence[str]:
    """Return the arms of the figures that are open; of the one that decides, where no single one is."""
    doubted: list[Finding] = [finding for finding in verdict.findings if finding.status is Status.INCONCLUSIVE]
    arms = [name for finding in doubted for name in finding.arms]
    return arms or (() if verdict.evidence is None else verdict.evidence.arms)
