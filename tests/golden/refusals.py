"""Policies, options and files that cannot be used, and the command lines that run into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPECIMEN = b'\n[[model]]\nsource = "specimen"\n'

# Each is audited as a policy file of its own.
POLICIES: dict[str, bytes] = {
    name: text.encode()
    for name, text in {
        "a misspelt key": "sede = 1",
        "a misspelt table": "[corpuss]\nwindows = 1",
        "a misspelt key in a table": "[corpus]\nwindos = 1",
        "a misspelt key of a model": '[[model]]\nsorce = "y"',
        "a misspelt limit": "[checks.prune-collapses]\nminimum_rato = 1",
        "a key that resembles none": "zzz = 1",
        "an unknown check": "[checks.prune-colapses]\nminimum_ratio = 2",
        "an unknown check with underscores": "[checks.prune_colapses]",
        "a check that resembles none": "[checks.zzzzzz]",
        "text for a number": 'seed = "many"',
        "a decimal for a whole number": "seed = 1.0",
        "a date": "seed = 2026-01-02",
        "text for a table": 'corpus = "text.txt"',
        "a table for a list": '[model]\nsource = "x"',
        "true for a number": "[corpus]\nwindows = true",
        "a number for text": "[corpus]\nsource = 5",
        "text for true": '[[model]]\nsource = "x"\nallow_pickle = "yes"',
        "a model without a source": '[[model]]\nid = "x"',
        "text for a list": '[quantization]\nrecipes = "int4/row"',
        "a list for text": 'prompts = [["a"]]',
        "a limit of zero": "[checks.prune-collapses]\nminimum_ratio = 0",
        "a limit below zero": "[checks.prune-collapses]\nminimum_ratio = -1",
        "a share above one": "[checks.super-activation-persists]\ntolerance = 1.5",
        "no draws": "[checks.placebo-harmless]\ndraws = 0",
        "certainty": "confidence = 1",
        "an infinite number": "confidence = inf",
        "no number": "confidence = nan",
        "an unknown word": 'expect = "maybe"',
        "another schema": "schema = 2",
        "a stride that leaves gaps": "[corpus]\nwindow = 4\nstride = 9",
        "an unknown recipe": '[quantization]\nrecipes = ["int9/row"]',
        "a limit of an unknown recipe": '[checks.rtn-holdout-quality.maximum_ratio]\n"int9/row" = 2',
        "a limit of a recipe that is not run": '[checks.rtn-holdout-quality.maximum_ratio]\n"int4/row" = 2',
        "two models of one name": '[[model]]\nsource = "a"\n[[model]]\nsource = "b/a"',
        "an id with brackets": '[[model]]\nsource = "a"\nid = "a[b]"',
        "an unknown entry of the index": '[[model]]\nsource = "specimen"\nindex = "huggyllama/lama-7b"',
        "no TOML": "seed = = 1",
        "a key twice": "seed = 1\nseed = 2",
        "no model": "seed = 1",
    }.items()
} | {"bytes": b"\xff\xfe"}


@dataclass(frozen=True)
class Refusal:
    """A command line that is refused.

    Attributes:
        arguments: What is asked of the program.
        files: What lies in the folder.
    """

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


def _ask(line: str, **files: bytes) -> Refusal:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return Refusal(tuple(line.split()), named)


COMMANDS: dict[str, Refusal] = {
    "no command of this name": _ask("bogus"),
    "no option of this name": _ask("audit specimen --bogus"),
    "an argument too many": _ask("schema policy bogus"),
    "an argument too few": _ask("locate"),
    "an option that is missing": _ask("render record.json"),
    "a word that is not among the choices": _ask("audit specimen --expect maybe"),
    "a number that is not one": _ask("audit specimen --windows many"),
    "a number out of range": _ask("audit specimen --windows 0"),
    "a check that there is not": _ask("audit specimen --check=prune-colapses"),
    "a check that resembles none": _ask("audit specimen --check=zzzzzz"),
    "a policy that is not there": _ask("audit none.swaudit.toml"),
    "a policy option that is not there": _ask("audit specimen --policy=none.toml"),
    "a policy without a name of its own, and a model": _ask("audit mine.toml specimen", mine_toml=b"seed = 1"),
    "a plan of nothing": _ask("plan none.toml"),
    "a plan without models": _ask("plan mine.toml", mine_toml=b"seed = 1"),
    "a text that is not there": _ask("audit specimen --corpus=./text.txt"),
    "a text that is empty": _ask("audit specimen --corpus=./text.txt", text_txt=b""),
    "a text that is bytes": _ask("audit specimen --corpus=./text.txt", text_txt=b"\xff\xfe\x00bad"),
    "a text that is short": _ask("audit specimen --corpus=./text.txt", text_txt=b"mill river"),
    "a corpus of JSON that is not JSON": _ask("audit specimen --corpus=./text.json", text_json=b"{"),
    "an index that is not there": _ask("audit specimen --index=mine.toml"),
    "an index that is empty": _ask("audit specimen --index=mine.toml", mine_toml=b""),
    "an index of something else": _ask("index --file=mine.toml", mine_toml=b"[tool.other]\n"),
    "an index of another schema": _ask("index --file=mine.toml", mine_toml=b"sw-audit-index = 2\n"),
    "a model that the index lacks": _ask("index huggyllama/lama-7b"),
    "an output folder that is a file": _ask("audit specimen --out=file", file=b""),
    "an output folder below a file": _ask("audit specimen --out=file/below", file=b""),
    "a JUnit file in no folder": _ask("audit specimen --junit=none/junit.xml"),
    "a baseline that is not kept": _ask("audit specimen --compare=nothing"),
    "a parent that is not there": _ask("audit specimen --parent=./nowhere"),
    "a device that is not here": _ask("locate specimen --device=cuda:77"),
    "a device that there is not": _ask("locate specimen --device=moon"),
    "a file in place of a folder": _ask("locate ./model", model=b""),
    "an id while the hub is off": _ask("locate owner/name"),
    "a recipe that there is not": _ask("quantize specimen --recipe int9/row -o out"),
    "a recipe in the wrong form": _ask("quantize specimen --recipe int4 -o out"),
    "hold-out that is no address": _ask("quantize specimen --recipe int4/row --holdout here -o out"),
    "hold-out of nothing and something": _ask(
        "quantize specimen --recipe int4/row --holdout auto --holdout none -o out"
    ),
    "no matrix of such a name": _ask("quantize specimen --recipe int4/row --target none.* -o out"),
    "quantizing into a full folder": _ask("quantize specimen --recipe int4/row -o .", file=b""),
    "a quantizer that there is not": _ask("compare-quantizers specimen --methods bogus"),
    "a recipe to compare that there is not": _ask("compare-quantizers specimen --recipes int9/row"),
    "records that are not there": _ask("diff before.json after.json"),
    "a record that is not JSON": _ask("diff a.json a.json", a_json=b"{"),
    "a record that is none": _ask("diff a.json a.json", a_json=b"{}"),
    "a record of another schema": _ask("render a.json -o a.html", a_json=b'{"schema": 99}'),
    "a report without a record": _ask("render a.html -o b.html", a_html=b"<html></html>"),
    "a form that there is not": _ask("render a.json -o a.pdf --format pdf", a_json=b"{}"),
    "a fingerprint of nothing": _ask("fingerprint ./nowhere"),
    "a fingerprint of no record": _ask("fingerprint a.json", a_json=b"{}"),
    "a policy that exists": _ask("init mine.toml", mine_toml=b""),
    "a policy in no folder": _ask("init none/mine.toml"),
    "a demo in a full folder": _ask("demo .", file=b""),
    "the specimen in a full folder": _ask("specimen .", file=b""),
    "an own index in no folder": _ask("locate specimen --update-index none/mine.toml"),
}
