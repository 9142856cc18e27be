"""The errors that sw-audit raises on purpose.

AuditError
└── InputError           the user's input cannot be used: exit code 2, one line
├── CheckpointError  a model that is missing, damaged or of the wrong kind
│   ├── BrokenWeightsError   one whose weights are not what they should be: what `weights-intact` fails on
│   └── UnfitCheckpointError  one without what makes it a language model: beside its parent that is a failure too
├── CorpusError      a text that is missing, empty or too short
├── PolicyError      a policy that does not say what it means
├── RecordError      a record that cannot be read or written
├── EngineError      a program that serves models and does not do as asked
├── IndexFileError   an index of coordinates that cannot be used
└── OutputError      a place that cannot be written to
"""

from __future__ import annotations

from sw_audit.printable import printable


class AuditError(Exception):
    """Base of every error that sw-audit raises on purpose."""


class InputError(AuditError):
    """Input that cannot be used, told as one line: what was asked, what was found, what to do.

    Args:
        asked: What was asked for, quoting the user's words.
        found: What was found in its place.
        remedy: What to do next, as an imperative.
    """

    def __init__(self, asked: str, found: str, remedy: str) -> None:
        self.asked, self.found, self.remedy = (_one_line(part) for part in (asked, found, remedy))
        super().__init__(f"{self.asked}: {self.found}; {self.remedy}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, ...]]:
        """Three arguments in, three arguments out, so that the error crosses process borders."""
        return type(self), (self.asked, self.found, self.remedy)


class CheckpointError(InputError):
    """A model that is missing, damaged or of the wrong kind."""


class BrokenWeightsError(CheckpointError):
    """A model whose weights are not what they should be.

    Args:
        asked: See `InputError`.
        found: Likewise.
        remedy: Likewise.
        kind: What kind of flaw it is, one of `sw_audit.record.checkpoint.FlawKind`.
        where: The tensor, file or key.
    """

    def __init__(self, asked: str, found: str, remedy: str, kind: str = "unreadable", where: str = "") -> None:
        super().__init__(asked, found, remedy)
        self.kind, self.where = kind, where

    def __reduce__(self) -> tuple[type[InputError], tuple[str, ...]]:
        """Everything in, everything out, so that the error crosses process borders whole."""
        return type(self), (self.asked, self.found, self.remedy, self.kind, self.where)


class UnfitCheckpointError(CheckpointError):
    """Files that are no language model: some are missing or no JSON, or it is a model of another kind.

    By itself that is input that cannot be used; beside a sound parent it is a broken descendant.
    """

    kind, where = "unfit", ""


class CorpusError(InputError):
    """A text that is missing, empty or too short."""


class EngineError(InputError):
    """A program that serves models and does not open one, does not answer, or answers what was not asked."""


class PolicyError(InputError):
    """A policy that does not say what it means."""


class RecordError(InputError):
    """A record that cannot be read or written."""


class IndexFileError(InputError):
    """An index of coordinates that cannot be used."""


class OutputError(InputError):
    """A place that cannot be written to."""


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
