from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.evidence import change_model, make_record

from sw_audit.errors import OutputError, RecordError
from sw_audit.record.codec import encode_record
from sw_audit.record.environment import describe_environment
from sw_audit.record.store import EMBEDDED_ID, check_writable, read_record, write_text

RECORD = make_record(windows=8, items=8)


def embed_record(text: str) -> str:
    """Put a record into a page the way a report carries it: `<` cannot end the element early."""
    escaped = text.replace("<", "\\u003c")
    return (
        "<!doctype html><html><head><script>let other = 1;</script></head><body><p>report</p>"
        f'<script type="application/json" id="{EMBEDDED_ID}">{escaped}</script>'
        "<script>let last = 2;</script></body></html>"
    )


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "größer\r\nthan\n")
    assert path.read_bytes() == "größer\r\nthan\n".encode()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_others_may_read_it_as_the_umask_has_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "report.html", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_text(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, place: str
) -> None:
    def break_off(*_: object) -> None:
        raise failure

    path = tmp_path / "record.json"
    path.write_text("old")
    if place == "fsync":
        monkeypatch.setattr("sw_audit.record.store.os.fsync", break_off)
    else:
        monkeypatch.setattr(Path, "replace", break_off)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        write_text(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(failure, OSError):
        assert "No space left on device" in str(caught.value)


def test_a_process_killed_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sw_audit.record import store\n"
        "store.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.write_text(Path(sys.argv[1]), 'new' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("parts", [("missing", "record.json"), ("file", "record.json"), ("folder",)])
def test_a_place_that_cannot_be_written_to_is_one_clear_line(tmp_path: Path, parts: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    path = tmp_path.joinpath(*parts)
    with pytest.raises(OutputError, match="choose a place that can be written to") as caught:
        write_text(path, "x")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_writable(folder)
    check_writable(folder)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_a_file_or_inside_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="choose a folder that can be written to"):
            check_writable(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable(folder)


def test_a_record_is_read_from_json_and_from_a_report(tmp_path: Path) -> None:
    text = encode_record(RECORD)
    for name, content in (
        ("record.json", text),
        ("report.html", embed_record(text)),
        ("R.HTM", embed_record(text)),
    ):
        write_text(tmp_path / name, content)
        assert read_record(tmp_path / name) == RECORD


def test_a_record_that_speaks_of_markup_survives_its_report(tmp_path: Path) -> None:
    verdict = RECORD.verdicts[0].model_copy(update={"because": "</script><b>&amp; ünd </script>"})
    record = change_model(RECORD, verdicts=(verdict,))
    write_text(tmp_path / "report.html", embed_record(encode_record(record)))
    assert read_record(tmp_path / "report.html") == record


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.html", b"<html><script id='other'>{}</script></html>", "carries no record"),
        ("report.html", embed_record("{").encode(), "it is not JSON"),
        ("record.json", b"\xff\xfe\x00", "not text in UTF-8"),
        ("record.json", b"", "it is not JSON"),
    ],
)
def test_a_file_without_a_usable_record_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=words) as caught:
        read_record(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_record_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file"):
        read_record(tmp_path / "none.json")
    with pytest.raises(RecordError, match="directory"):
        read_record(tmp_path)


def test_the_environment_names_what_decides_figures() -> None:
    environment = describe_environment(threads=3)
    assert environment.threads == 3
    assert environment.python == ".".join(str(part) for part in sys.version_info[:3])
    assert {"numpy", "sw-audit", "torch", "transformers"} <= environment.packages.keys()
