from __future__ import annotations

from pathlib import Path

import pytest
from support.evidence import make_record

from sw_audit.errors import OutputError
from sw_audit.record.rendering import list_formats, render_record

RECORD = make_record(windows=8, items=8)


def install_renderer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that brings a renderer, the way pip lays it out."""
    (folder / "shout_renderer.py").write_text("def shout(record):\n    return record.models[0].id.upper()\n")
    metadata = folder / "shout_renderer-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout-renderer\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sw_audit.renderers]\nshout = shout_renderer:shout\n")
    monkeypatch.syspath_prepend(str(folder))


def test_another_package_brings_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_renderer(tmp_path, monkeypatch)
    assert {"html", "shout"} <= set(list_formats())
    assert render_record(RECORD, "shout") == "SPECIMEN"


def test_an_unknown_format_is_one_line_that_names_the_known_ones() -> None:
    with pytest.raises(OutputError, match=r"format 'docx': no renderer writes it; choose among: .*html"):
        render_record(RECORD, "docx")
