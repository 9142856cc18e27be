"""What a record does not say of whoever ran the audit: home folders, user names and secrets become marks."""

from __future__ import annotations

import getpass
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field

from sw_audit.fact import Fact
from sw_audit.record.identity import Protocol

Kind = Literal["home", "user", "secret"]

AnyFact = TypeVar("AnyFact", bound=Fact)

_KINDS: Mapping[Kind, str] = {"home": "own home folder", "user": "user name", "secret": "secret"}
_SEPARATOR = r"[/\\]+"
_BEFORE = r"(?:(?<![\w/\\.~-])|(?<=file://))"
"""What a path begins after."""
_AFTER = r"(?=[/\\]|$|[^\w.@+-]|\.(?:\s|$))"
"""What a name in a path ends before."""
_MARK = re.compile(r"<(user|secret)(?:-(\d+))?>")
_HOMES = re.compile(
    rf"{_BEFORE}(?:(?:/|(?:\.\.{_SEPARATOR})+)(?:(?:export|var|usr)/)?(?:home|Users)"
    rf"|(?:/mnt/[a-z]|[A-Za-z]:){_SEPARATOR}Users){_SEPARATOR}(\w(?:[^/\\\s\"'`<>|:;,()]*\w)?){_AFTER}"
)
_SPACED = re.compile(
    rf"\A(?:/Users/|[A-Za-z]:{_SEPARATOR}Users{_SEPARATOR})(\w[^/\\\"'`<>|:]* [^/\\\"'`<>|:]*\w)(?=[/\\])"
)
"""A name of several words can only be told from a sentence where the text begins with it."""
_SHARED = frozenset({"Shared", "Public", "Default", "linuxbrew"})
"""Folders beside the homes that are nobody's."""
_NOBODY = frozenset(
    (
        *("root", "admin", "administrator", "user", "users", "nobody", "runner", "ubuntu", "debian", "ec2-user"),
        *("app", "jovyan", "vscode", "codespace", "build", "builder", "jenkins", "docker", "test"),
        *("models", "data", "home"),
    )
)
"""Names of accounts that name no person, and are parts of many paths."""
_LITERAL = 12
"""A secret of at least so many characters is a secret wherever it stands."""


def _name_word(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})")


# What a text must hold, and the secret: group 1, else all of it. The forms are those that their issuers give
# (docs.github.com "About authentication to GitHub", docs.gitlab.com "Token overview", huggingface.co/docs/hub
# "User access tokens", the IAM reference "Unique identifiers", RFC 3986 3.2.1, RFC 6750, RFC 7519, RFC 7468), some
# as in the plugins of Yelp's detect-secrets 1.5. That itself brings requests along, and tells lines, not places.
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("PRIVATE KEY", re.compile(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)")),
    ("://", re.compile(r"://([^\s/?#@:\"'`<>]*:[^\s/?#@\"'`<>]+)@")),
    ("hf_", _name_word(r"hf_[A-Za-z0-9]{30,}")),
    ("api_org_", _name_word(r"api_org_[A-Za-z0-9]{30,}")),
    ("gh", _name_word(r"gh[pousr]_[A-Za-z0-9]{36,}")),
    ("github_pat_", _name_word(r"github_pat_[A-Za-z0-9_]{22,}")),
    ("gl", _name_word(r"gl(?:pat|dt|ft|soat|rt|cbt|ptt|agent|oas)-[A-Za-z0-9_-]{20,}")),
    ("A", _name_word(r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])")),
    # A run of twenty letters and digits tells a key from a name in kebab-case.
    ("sk-", _name_word(r"sk-(?:[A-Za-z0-9]+-){0,3}[A-Za-z0-9_]{20,}[A-Za-z0-9_-]*")),
    ("k_", _name_word(r"[rs]k_(?:live|test)_[0-9a-zA-Z]{24,}")),
    ("xox", _name_word(r"xox[abporse]-(?:[0-9A-Za-z]+-)+[0-9A-Za-z]{10,}")),
    ("AIza", _name_word(r"AIza[0-9A-Za-z_-]{35}")),
    ("npm_", _name_word(r"npm_[A-Za-z0-9]{36}")),
    ("pypi-", _name_word(r"pypi-[A-Za-z0-9_-]{70,}")),
    ("eyJ", _name_word(r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    (
        "=",
        re.compile(
            r"(?i)[?&#;](?:[\w-]*(?:token|secret|password|passwd|pwd|signature|credential|api[_-]?key|accesskeyid)"
            r"|key|sig)=([^&#;\s\"'`<>]+)"
        ),
    ),
    (
        "=",
        re.compile(r"(?<![A-Za-z0-9_])[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)=([^\s\"'`<>]{8,})"),
    ),
    ("earer ", re.compile(r"[Bb]earer ([A-Za-z0-9._~+/=-]{20,})")),
)


class Redaction(Fact):
    """How often something was left out of a record.

    Attributes:
        kind: `home`: the home folder of whoever ran the audit, which became `~`; `user`: a user name in a path,
            `<user>`; `secret`: a password, token or private key, `<secret>`. Of several the second is `<user-2>`.
        times: How often.
    """

    kind: Kind
    times: int = Field(ge=1)


class Person(NamedTuple):
    """Whoever runs an audit.

    Attributes:
        homes: Paths of the home folder.
        names: Names of the account.
    """

    homes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def find_person() -> Person:
    """Return who runs this program, as far as the system says."""
    homes, names = [], []
    with suppress(RuntimeError, OSError):
        homes = [Path.home(), Path.home().resolve()]
    with suppress(OSError, KeyError, ImportError):  # what Python raises where there is no such account
        names = [getpass.getuser()]
    names += [home.name for home in homes]
    return Person(
        tuple(dict.fromkeys(str(home) for home in homes if home.name)),
        tuple(dict.fromkeys(name for name in names if len(name) > 1 and name.lower() not in _NOBODY)),
    )


def redact(fact: AnyFact, person: Person | None = None) -> tuple[AnyFact, tuple[Redaction, ...]]:
    """Put marks in place of home folders, user names and secrets, in every text of a fact.

    The own home becomes `~`, so that the path still leads there. Everything else has one mark of its own within
    the fact, so that what was alike stays alike and what was not does not: verdicts follow from what is left as
    they did before. Signatures of protocols follow the texts' names. What is redacted already stays as it is.

    Args:
        fact: Any fact, such as a record.
        person: Whose home and names are left out; by default those of whoever runs this program.

    Returns:
        The fact, and how often what was replaced.
    """
    texts = Counter(_list_texts(fact))
    marks = _Marks(texts, find_person() if person is None else person)
    changed, counts = {}, Counter[Kind]()
    for text, times in texts.items():
        new, found = marks.redact(text)
        if found:
            changed[text] = new
            counts.update({kind: number * times for kind, number in found.items()})
    if not changed:
        return fact, ()
    redacted = _rewrite(fact, lambda text: changed.get(text, text))
    renamed = {
        then.signature: now.signature
        for then, now in zip(_list_protocols(fact), _list_protocols(redacted), strict=True)
        if then != now
    }
    if renamed:
        signatures = re.compile(rf"(?<![0-9a-f])(?:{'|'.join(renamed)})(?![0-9a-f])")
        redacted = _rewrite(redacted, lambda text: signatures.sub(lambda found: renamed[found[0]], text))
    return redacted, tuple(Redaction(kind=kind, times=counts[kind]) for kind in _KINDS if counts[kind])


def redact_text(text: str, person: Person | None = None) -> str:
    """Put marks in place of home folders, user names and secrets in one text."""
    return _Marks([text], find_person() if person is None else person).redact(text)[0]


def add_redactions(*several: Iterable[Redaction]) -> tuple[Redaction, ...]:
    """Add up how often what was replaced."""
    counts = Counter[Kind]()
    for found in several:
        counts.update({one.kind: one.times for one in found})
    return tuple(Redaction(kind=kind, times=counts[kind]) for kind in _KINDS if counts[kind])


def describe_redactions(redactions: Iterable[Redaction]) -> str:
    """Say what was replaced, such as `own home folder 12 times, secret once`; nothing if nothing was."""
    return ", ".join(
        f"{_KINDS[one.kind]} {'once' if one.times == 1 else f'{one.times} times'}" for one in redactions
    )


class _Marks:
    """What stands for each name and each secret of some texts."""

    def __init__(self, texts: Collection[str], person: Person) -> None:
        self._marks: dict[tuple[Kind, str], str] = {}
        self._numbers = Counter[str]()
        long = set[str]()
        for text in texts:
            for kind, number in _MARK.findall(text) if "<" in text else ():
                self._numbers[kind] = max(self._numbers[kind], int(number or 1))
            for hint, pattern in _SECRETS:
                if hint in text:
                    found = [one[pattern.groups] for one in pattern.finditer(text)]
                    long.update(found, (one.rpartition(":")[2] for one in found))  # a password by itself, too
        long = {secret for secret in long if len(secret) >= _LITERAL}
        self._secret = re.compile("|".join(map(re.escape, sorted(long, key=len, reverse=True)))) if long else None
        self._homes = [_write_home(home) for home in person.homes]
        self._names = [pattern for name in person.names for pattern in _write_name(re.escape(name))]

    def redact(self, text: str) -> tuple[str, Counter[Kind]]:
        """Return a text with marks, and how many of each kind were put there."""
        counts = Counter[Kind]()

        def put(kind: Kind) -> Callable[[re.Match[str]], str]:
            def replace(found: re.Match[str]) -> str:
                group = found.re.groups
                value = found[group]
                if kind == "user" and value in _SHARED:
                    return found[0]
                counts[kind] += 1
                mark = "~" if kind == "home" else self._mark(kind, value)
                start, end = found.start(group) - found.start(), found.end(group) - found.start()
                return f"{found[0][:start]}{mark}{found[0][end:]}"

            return replace

        before = None
        while text != before:  # what a mark stands beside may be a secret only then
            before = text
            for hint, pattern in _SECRETS:
                if hint in text:
                    text = pattern.sub(put("secret"), text)
            if self._secret is not None:
                text = self._secret.sub(put("secret"), text)
            if "/" in text or "\\" in text:
                for pattern in self._homes:
                    text = pattern.sub(put("home"), text)
                for pattern in (_SPACED, _HOMES, *self._names):
                    text = pattern.sub(put("user"), text)
        return text, counts

    def _mark(self, kind: Kind, value: str) -> str:
        if (kind, value) not in self._marks:
            self._numbers[kind] += 1
            number = self._numbers[kind]
            self._marks[kind, value] = f"<{kind}>" if number == 1 else f"<{kind}-{number}>"
        return self._marks[kind, value]


def _write_home(home: str) -> re.Pattern[str]:
    """Match a home folder, also where the way to it is told from another folder."""
    parts = [part for part in re.split(_SEPARATOR, home) if part]
    drive = parts.pop(0) + _SEPARATOR if parts[0].endswith(":") else "/"
    below = _SEPARATOR.join(map(re.escape, parts))
    return re.compile(rf"{_BEFORE}(?:{drive}|(?:\.\.{_SEPARATOR})+){below}{_AFTER}")


def _write_name(name: str) -> Iterator[re.Pattern[str]]:
    """Match a name between separators, and at the end of a path; the second part of a hub id is neither."""
    yield re.compile(rf"(?<=[/\\]){name}(?=[/\\])")
    yield re.compile(rf"{_BEFORE}(?:~|\.{{1,2}}|[A-Za-z]:)?[/\\](?:[\w.@+<>-]+{_SEPARATOR})*({name}){_AFTER}")


def _list_parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """List what a value is made of, by name or place."""
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, tuple):
        yield from enumerate(value)


def _list_texts(value: Any) -> Iterator[str]:
    if type(value) is str:  # an enum's member is one of few words
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _list_texts(key)
            yield from _list_texts(part)
    else:
        for _, part in _list_parts(value):
            yield from _list_texts(part)


def _list_protocols(value: Any) -> Iterator[Protocol]:
    if isinstance(value, Protocol):
        yield value
    else:
        for _, part in _list_parts(value):
            yield from _list_protocols(part)


def _rewrite(value: Any, change: Callable[[str], str]) -> Any:
    """Change every text of a value; what has none that changes is returned as it is."""
    if type(value) is str:
        return value if (new := change(value)) == value else new
    parts = {name: (part, _rewrite(part, change)) for name, part in _list_parts(value)}
    if isinstance(value, dict):
        return {_rewrite(name, change): new for name, (_, new) in parts.items()}
    if all(part is new for part, new in parts.values()):
        return value
    if isinstance(value, tuple):
        return tuple(new for _, new in parts.values())
    return value.model_copy(update={name: new for name, (part, new) in parts.items() if part is not new})
