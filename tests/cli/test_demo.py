"""`sw-audit demo`, and the gate on what it writes."""

from __future__ import annotations

import pytest
from support.program import Program

from sw_audit.record.store import decode_record
from sw_audit.record.verdict import Status


@pytest.mark.slow
def test_demo_says_what_it_wrote_and_what_to_run(program: Program) -> None:
    ending = program.run("demo", "d")
    assert (ending.code, ending.err) == (0, "")
    lines = ending.out.splitlines()
    told = [line.partition(":")[0] for line in lines]
    assert told[0] == "d/specimen"
    assert told[-1] == "d/policy.swaudit.toml"
    assert [line.split(": ")[1].rstrip(":") for line in lines[1:-1]] == [
        "Sound", "Broken", "Sound", "Broken", "Broken",
    ]  # fmt: skip
    assert lines[-1].endswith("run `sw-audit audit d/policy.swaudit.toml`")
    again = program.run("demo", "d")
    assert (again.code, len(again.complaints)) == (2, 1)
    assert "a folder that is not empty" in again.err


@pytest.mark.slow
def test_the_gate_passes_the_sound_and_fails_each_broken_one_by_the_right_check(program: Program) -> None:
    assert program.run("demo", "d").code == 0
    ending = program.start("audit", "d/policy.swaudit.toml", "--no-cache", timeout=900)
    assert ending.code == 1, ending.err
    record = decode_record((program.folder / "sw-audit-out" / "record.json").read_text(encoding="utf-8"))
    failed = {
        name: {one.check for one in record.verdicts if one.model == name and one.status is Status.FAIL}
        for name in ("sound-int4", "fine-tuned", "broken-int4", "broken-fine-tuned", "stripped-int4")
    }
    assert not failed["sound-int4"] | failed["fine-tuned"]
    lost = {"super-weight-retained", "super-activation-retained", "perplexity-ratio", "generation-sane"}
    assert lost <= failed["broken-int4"]
    assert lost <= failed["broken-fine-tuned"]
    assert failed["stripped-int4"] == {"weights-intact"}
    assert not any(one.status is Status.INCONCLUSIVE for one in record.verdicts)
    # One scalar, put back, makes good nearly all of what was lost.
    for name in ("broken-int4", "broken-fine-tuned"):
        [verdict] = [one for one in record.verdicts if (one.model, one.check) == (name, "perplexity-ratio")]
        shares = [one for one in verdict.findings if one.label.endswith("super weight put back")]
        # In short windows, and in windows of full length.
        assert len(shares) == 2
        assert all(share.low is not None and share.low > 0.98 for share in shares)
        tools = [one.where.partition(",")[0] for one in verdict.paste]
        assert tools == ["llm-compressor", "GPTQModel", "bitsandbytes"]
    page = (program.folder / "sw-audit-out" / "report.html").read_text(encoding="utf-8")
    assert "putting back its parent&#39;s super weight recovers 99." in page
