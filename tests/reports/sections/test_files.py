"""What a static look at the weight files found."""

from __future__ import annotations

from support.descent_pages import MODULE, make_flawed
from support.evidence import make_evidence
from support.sections import BuiltSection, build_section, make_context
from sw_audit_reports.elements import Paragraph

from sw_audit.record.checkpoint import Flaw, WeightsReport

FLAWS = "What was found in the files"


def build(report: WeightsReport | None) -> BuiltSection:
    return build_section("files", make_context(make_evidence().model_copy(update={"weights": report})))


def test_flaws_are_listed_with_what_to_do_and_others_are_counted() -> None:
    section = build(make_flawed())
    assert section.text == (
        "1 weight file with 93 tensors looked at, 51 of them value by value. 43 things found, of which these are "
        "listed. What to do: put the quantization_config back into config.json."
    )
    assert [row[1] for row in section.rows(FLAWS)] == ["Broken", "Told"]
    assert section.rows(FLAWS)[0][0] == f"{MODULE}.weight_packed"


def test_intact_files_are_said_to_be_and_a_manifest_is_told() -> None:
    section = build(WeightsReport(files=2, tensors=9, scanned=9, manifest=True))
    assert section.text == (
        "2 weight files with 9 tensors looked at, 9 of them value by value. File digests were held against a "
        "manifest. Nothing is wrong with them."
    )
    assert not section.has_table(FLAWS)
    assert build(None).elements == []


def test_a_key_in_what_to_do_is_set_as_code() -> None:
    flaw = Flaw(kind="digest", where="model.safetensors", found="another one")
    report = WeightsReport(files=1, tensors=1, flaws=(flaw,), remedy="look at `config.json`")
    [paragraph] = [one for one in build(report).elements if isinstance(one, Paragraph)]
    assert [cell.text for cell in paragraph.cells if cell.code] == ["config.json"]
