from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.baselines import hold
from support.descent import make_descent_evidence
from support.evidence import compose, judge_model, make_evidence, make_protocol, make_record

from sw_audit.checks.judging import judge_result
from sw_audit.policy.model_policy import ModelPolicy, Waiver
from sw_audit.policy.policy import Policy
from sw_audit.record.identity import Protocol
from sw_audit.record.record import ModelResult, Record
from sw_audit.record.redaction import (
    Person,
    Redaction,
    add_redactions,
    describe_redactions,
    find_person,
    redact,
    redact_text,
)
from sw_audit.record.rendering import GROUP
from sw_audit.record.store import decode_record, encode_record
from sw_audit.runner.run import compose_record, redact_record

ALICE = Person(("/home/alice",), ("alice",))
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
SECRETS = (
    "hf_" + "aB3" * 11 + "x",
    "ghp_" + "aB3" * 12,
    "github_pat_" + "1aB_" * 20,
    "glpat-" + "aB3-" * 6,
    "AKIAIOSFODNN7EXAMPLE",  # the AWS documentation's own
    "sk-proj-" + "aB3" * 16 + "-x_y",
    "sk-" + "aB3" * 16,
    "xoxb-123456789012-abcdefghij123",
    "npm_" + "aB3" * 12,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    KEY,
)
FORMS = (*SECRETS, "https://alice:hunter2@hub.example/x", "https://hub.example/x?a=1&token=hunter2&b=2")
LEFT = (
    "alice went home, and the user said: a token = 5",
    "org/alice", "alice/model", "/home", "~/models/x", "<user>", "<secret-2>", "a" * 64,
    "model.layers.2.mlp.down_proj.weight", "sk-learn-regression-model-v2", "https://huggingface.co/org/model?x=1",
    "/usr/lib/python3/site-packages/alice_tools/x.py", "int4/64x64", "and/or", "C:\\data\\x", "/Users/Shared/x",
    "risk_live_test", "key=value", "bearer of news",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/alice/models/x", "~/models/x"),
        ("see x=/home/alice.", "see x=~."),
        ("../../home/alice/x", "~/x"),
        ("file:///home/alice/x", "file://~/x"),
        ("/home/alicia/x", "/home/<user>/x"),
        ("/home/bob/x and /Users/carol/y, /home/bob/z", "/home/<user>/x and /Users/<user-2>/y, /home/<user>/z"),
        ("/home/<user>/x beside /home/bob/x", "/home/<user>/x beside /home/<user-2>/x"),
        (r"C:\Users\Bob\x", r"C:\Users\<user>\x"),
        ("/Users/Jane Doe/x", "/Users/<user>/x"),
        ("../../home/bob/x", "../../home/<user>/x"),
        ("/data/alice/x", "/data/<user>/x"),
        ("runs in `/data/alice`.", "runs in `/data/<user>`."),
        ("https://alice:hunter2@hub.example/x", "https://<secret>@hub.example/x"),
        ("http://h/?a=1&access_token=hunter2#b", "http://h/?a=1&access_token=<secret>#b"),
        ("HF_TOKEN=hunter2hunter2", "HF_TOKEN=<secret>"),
        ("ftp://x:hunter2hunter2@h/x: hunter2hunter2", "ftp://<secret>@h/x: <secret-2>"),
        (f"with {SECRETS[0]}, {SECRETS[1]} and {SECRETS[0]}", "with <secret>, <secret-2> and <secret>"),
    ],
)
def test_a_mark_stands_where_a_name_or_a_secret_stood(text: str, left: str) -> None:
    assert redact_text(text, ALICE) == left


@pytest.mark.parametrize("text", LEFT)
def test_what_names_nobody_stays_as_it_is(text: str) -> None:
    assert redact_text(text, ALICE) == text


PIECES = (
    *FORMS, *LEFT, "/home/alice/x", "/home/bob/m", "/data/alice/x", "../../home/carol", " ", ", ", "\n", "=", "/",
    "`", ".", "é", "\x1b[31m", "<", "https://", "/home/", ":", "@", "alice", "-----BEGIN X PRIVATE KEY-----",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)


@given(TEXTS)
def test_what_is_redacted_stays_as_it_is_when_it_is_redacted_again(text: str) -> None:
    once = redact_text(text, ALICE)
    assert redact_text(once, ALICE) == once


@given(TEXTS, st.sampled_from(SECRETS), TEXTS)
def test_a_secret_between_any_texts_does_not_survive(before: str, secret: str, after: str) -> None:
    assert secret not in redact_text(f"{before} {secret} {after}", ALICE)


@given(st.text(st.characters(exclude_characters="/\\@=_-"), max_size=200))
def test_a_text_of_no_path_and_no_key_is_never_changed(text: str) -> None:
    assert redact_text(text.replace("earer", ""), Person(("/home/alice",), ("a", "the", "alice"))) == text.replace(
        "earer", ""
    )


@given(st.lists(TEXTS, max_size=5, unique=True))
def test_texts_that_differ_differ_afterwards_but_for_the_own_home(texts: list[str]) -> None:
    policy = Policy().model_copy(update={"prompts": tuple(texts)})
    redacted, _ = redact(policy, Person((), ALICE.names))
    assert len(set(redacted.prompts or ())) == len(texts)


def plant(text: str) -> Record:
    """A record that holds a text wherever somebody can write one."""
    evidence = make_evidence(windows=8, items=8)
    corpus = evidence.protocol.corpus.model_copy(update={"name": text})
    protocol = evidence.protocol.model_copy(update={"corpus": corpus})
    renewed = tuple(one.model_copy(update={"protocol": protocol.signature}) for one in evidence.measurements)
    update = {
        "model": evidence.model.model_copy(update={"source": text, "revision": text}),
        "notes": (text, f"See {text}."),
        "protocol": protocol,
        "measurements": renewed,
        "location": evidence.location.model_copy(update={"prompt": text, "because": text}),
    }
    waivers = tuple(
        Waiver(check="*", model="specimen", until="2030-01-01", owner=text, reason=text) for _ in range(2)
    )
    asked = ModelPolicy(source=text or "x", id="specimen", parent=None, expect="some")
    policy = Policy(models=(asked,), waivers=waivers, prompts=(text,), laws="gate")
    return compose(judge_model(evidence.model_copy(update=update), policy), policy=policy)


def list_written(record: Record) -> dict[str, str]:
    """Every form of a record that there is."""
    points = [point for point in entry_points(group=GROUP) if find_spec(point.module) is not None]
    assert "html" in {point.name for point in points}
    return {"record": encode_record(record), **{point.name: point.load()(record) for point in points}}


def test_no_planted_secret_survives_in_any_format() -> None:
    inside = "https://x:hunter2hunter2x9@hub.example/home"
    record = redact_record(plant(", ".join([inside, *SECRETS])))
    assert [one.kind for one in record.redacted] == ["secret"]
    traces = ("hunter2", "b3BlbnNzaC1rZXk", *(one for one in SECRETS if one != KEY))
    written = list_written(record).items()
    assert {(form, trace) for form, text in written for trace in traces if trace in text} == set()


def test_a_name_survives_in_no_format_and_the_record_still_loads() -> None:
    record = redact_record(plant("/home/mallory/models/x"))
    assert {form for form, text in list_written(record).items() if "mallory" in text} == set()
    again = decode_record(encode_record(record))
    assert again == record
    assert again.redacted == (Redaction(kind="user", times=record.redacted[0].times),)
    assert again.policy.models[0].source == "/home/<user>/models/x" == again.results[0].model.source


def test_the_own_home_still_leads_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    [asked] = redact_record(plant(f"{tmp_path}/models/x")).policy.models
    assert asked.source == "~/models/x"
    assert Path(asked.source).expanduser() == tmp_path / "models" / "x"


def test_without_redaction_everything_stays() -> None:
    record = plant("/home/mallory/models/x")
    kept = record.model_copy(update={"policy": record.policy.model_copy(update={"redaction": False})})
    assert redact_record(kept) == kept
    assert compose_record(kept.models, kept.policy).redacted == ()


def test_a_record_without_such_texts_stays_the_same_object() -> None:
    record = make_record(windows=8, items=8)
    assert redact(record, ALICE) == (record, ())


@pytest.mark.parametrize("text", ["/home/alice/t.txt", "/home/bob/t.txt", f"/d/{SECRETS[0]}/t", "plain.txt"])
def test_verdicts_follow_again_from_a_redacted_record(text: str) -> None:
    record = plant(text)
    redacted, found = redact(record, ALICE)
    assert bool(found) == (text != "plain.txt")
    [result] = redacted.results
    assert judge_result(result, redacted.policy) == result.verdicts
    assert {verdict.protocol for verdict in result.verdicts} <= {None, result.protocol.signature}
    assert [one.status for one in result.verdicts] == [one.status for one in record.verdicts]


def test_verdicts_beside_a_parent_follow_again() -> None:
    evidence = make_descent_evidence()
    assert evidence.descent is not None
    parent = "/home/bob/models/parent"
    policy = Policy(models=(ModelPolicy(source="/home/alice/child", id=evidence.id, parent=parent),))
    moved = evidence.descent.parent.model_copy(update={"source": parent, "id": "parent"})
    result = evidence.model_copy(update={"descent": evidence.descent.model_copy(update={"parent": moved})})
    redacted, _ = redact(compose(judge_model(result, policy), policy=policy), ALICE)
    [result] = redacted.results
    assert result.verdicts
    assert judge_result(result, redacted.policy) == result.verdicts
    [asked] = redacted.policy.models
    assert (asked.source, asked.parent) == ("~/child", "/home/<user>/models/parent")


def test_two_homes_do_not_become_one_folder() -> None:
    models = (ModelPolicy(source="/home/bob/m", parent="/home/carol/m"),)
    redacted, _ = redact(compose(policy=Policy(models=models)), ALICE)
    assert decode_record(encode_record(redacted)) == redacted


def test_a_baseline_whose_text_lay_in_a_home_is_compared_with() -> None:
    def name(result: ModelResult, text: str) -> ModelResult:
        assert result.baseline is not None
        protocol = rename(result.baseline.protocol, text)
        measurement = result.baseline.measurement.model_copy(update={"protocol": protocol.signature})
        changes = {"protocol": protocol, "measurement": measurement}
        return result.model_copy(update={"baseline": result.baseline.model_copy(update=changes)})

    policy = Policy(compare="main")
    here, there = hold(), name(hold(), "~/text.txt")
    [then, now] = (judge_result(one, policy, ["quality-not-worse"])[0] for one in (here, there))
    assert then.status == now.status == "pass"


def rename(protocol: Protocol, text: str) -> Protocol:
    return protocol.model_copy(update={"corpus": protocol.corpus.model_copy(update={"name": text})})


def test_another_text_is_another_measurement_and_another_name_is_none() -> None:
    now = make_protocol()
    assert now.measures_as(rename(now, "~/text.txt"))
    other = now.corpus.model_copy(update={"sha256": "0" * 64})
    assert not now.measures_as(now.model_copy(update={"corpus": other}))
    assert not now.measures_as(make_protocol(seed=1))


def test_what_was_left_out_is_counted_and_said() -> None:
    record = plant("/home/alice/x")
    _, found = redact(record, ALICE)
    assert found == (Redaction(kind="home", times=encode_record(record).count("/home/alice/x")),)
    both = add_redactions(found, (Redaction(kind="secret", times=1),), (Redaction(kind="home", times=2),))
    assert describe_redactions(both) == f"own home folder {found[0].times + 2} times, secret once"
    assert describe_redactions(()) == ""


def test_who_runs_this_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "alice"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "root")
    assert find_person() == Person((str(home),), ("alice",))
    monkeypatch.setenv("HOME", "/")
    assert find_person() == Person((), ())
