"""The picture of a comment: what is drawn is what is posted."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from support.descent_pages import make_descent_record

from sw_audit.record.store import encode_record
from tools import comment_picture


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_a_record_becomes_a_picture_that_is_as_high_as_its_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comment_picture, "_fetch_style", lambda _: "")
    record, picture = tmp_path / "record.json", tmp_path / "comment.png"
    record.write_text(encode_record(make_descent_record()), encoding="utf-8")
    comment_picture.draw_comment(record, picture)
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert width == comment_picture.WIDTH
    assert 200 < height < 5000
