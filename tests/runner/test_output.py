"""Where files are written: tried before anything is measured, and left as it was."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from support.evidence import compose

from sw_audit.errors import OutputError
from sw_audit.record.store import encode_record, read_record
from sw_audit.runner import output
from sw_audit.runner.options import AuditSettings


def test_trying_an_output_folder_leaves_no_trace(tmp_path: Path) -> None:
    formats = {"badge": tmp_path / "a" / "c" / "x.svg", "text": tmp_path / "d" / "x.txt"}
    output.check_places(AuditSettings(out=tmp_path / "a" / "b", formats=formats, caching=False))
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_writes_meanwhile_into_the_same_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_beside(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "theirs").touch()

    monkeypatch.setattr(output, "check_writable", write_beside)
    output.check_places(AuditSettings(out=tmp_path / "a" / "b", caching=False))
    assert (tmp_path / "a" / "b" / "theirs").exists()


@pytest.mark.parametrize(
    ("causes", "tries", "ends"),
    [
        ([FileNotFoundError(), FileNotFoundError(), None], 3, None),
        ([FileNotFoundError(), PermissionError()], 2, "it cannot be had"),
        ([FileNotFoundError()] * 9, 4, "it cannot be had"),
    ],
)
def test_a_folder_that_another_process_takes_away_while_it_is_tried_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causes: list[OSError | None], tries: int, ends: str | None
) -> None:
    left = list(causes)

    def lose(_folder: Path) -> None:
        if (cause := left.pop(0)) is not None:
            raise OutputError("output folder", "it cannot be had", "choose another") from cause

    monkeypatch.setattr(output, "check_writable", lose)
    with nullcontext() if ends is None else pytest.raises(OutputError, match=ends):
        output.check_places(AuditSettings(out=tmp_path / "a", caching=False))
    assert len(causes) - len(left) == tries


@pytest.mark.parametrize("before", ["of an earlier run", None])
def test_a_record_that_is_taken_back_leaves_what_was_there_before(tmp_path: Path, before: str | None) -> None:
    folder = tmp_path / "a" / "b"
    if before is not None:
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(before)
    unfinished = output.UnfinishedFiles(folder, folder / "record.json")
    unfinished.write({unfinished.folder / "record.json": encode_record(compose())})
    assert read_record(folder / "record.json") == compose()
    unfinished.take_back()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_text() for path in left] == ([] if before is None else [before])
    assert (tmp_path / "a").exists() is (before is not None)


def test_what_an_earlier_run_rendered_does_not_stand_beside_another_record(tmp_path: Path) -> None:
    earlier = [tmp_path / "report.html", tmp_path / "x.md"]
    for path in earlier:
        path.write_text("of an earlier run")
    unfinished = output.UnfinishedFiles(tmp_path, tmp_path / "record.json", *earlier)
    unfinished.write({tmp_path / "record.json": "{}"})
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_an_unfinished_record_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below"
    unfinished = output.UnfinishedFiles(folder, folder / "record.json")
    unfinished.write({unfinished.folder / "record.json": encode_record(compose())})
    unfinished.take_back()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("compare", "same"),
    [
        ("out", True),
        ("./out/record.json", True),
        ("out/../out", True),
        ("other", False),
        ("main", False),
        (None, False),
    ],
)
def test_the_record_in_a_folder_is_known_as_the_one_that_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compare: str | None, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert output.is_baseline(compare, tmp_path / "out") is same
