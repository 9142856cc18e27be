"""The digest of critical bytes: what was changed is found, nothing else is, and a digest file is not trusted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sw_audit
from sw_audit.critical_bytes import ByteFault, check_bytes, digest_bytes
from sw_audit.errors import InputError

RANGES = [(3, 2), (40, 4), (42, 6), (90, 1)]
COUNTED = {3, 4, *range(40, 48), 90}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of 100 bytes and the digest of some of them."""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(range(100)))
    (tmp_path / "digest.json").write_text(json.dumps(digest_bytes({weights: RANGES})))
    return tmp_path


def test_the_digest_is_sha256_of_exactly_the_bytes_and_neighbours_are_one_range(folder: Path) -> None:
    [file] = json.loads((folder / "digest.json").read_text())["files"]
    assert [(one["offset"], one["length"]) for one in file["ranges"]] == [(3, 2), (40, 8), (90, 1)]
    assert file["ranges"][0]["sha256"] == hashlib.sha256(b"\x03\x04").hexdigest()


def test_an_untouched_copy_has_no_fault_and_a_file_can_be_named_for_its_folder(folder: Path) -> None:
    assert check_bytes(folder / "digest.json", folder) == ()
    assert check_bytes(folder / "digest.json", folder / "model.safetensors") == ()


@given(place=st.integers(0, 99), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_exactly_if_its_byte_counts(
    place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    weights, held = folder / "flipped.safetensors", bytearray(range(100))
    weights.write_bytes(held)
    (folder / "flipped.json").write_text(json.dumps(digest_bytes({weights: RANGES})))
    held[place] ^= 1 << bit
    weights.write_bytes(held)
    faults = check_bytes(folder / "flipped.json", folder)
    assert len(faults) == (place in COUNTED)
    assert all(fault.offset <= place < fault.offset + fault.length for fault in faults)
    assert all(fault.found == "changed" for fault in faults)


def test_a_file_that_is_cut_off_or_gone_is_told(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:44])
    assert check_bytes(folder / "digest.json", folder) == (
        ByteFault("model.safetensors", 40, 8, "cut off"),
        ByteFault("model.safetensors", 90, 1, "cut off"),
    )
    weights.unlink()
    [fault] = check_bytes(folder / "digest.json", folder)
    assert str(fault) == "model.safetensors is missing"


def test_a_pipe_in_a_file_s_place_is_not_waited_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    [fault] = check_bytes(folder / "digest.json", folder)
    assert fault.found == "missing"


def _rewrite(folder: Path, change: Any) -> None:
    content = json.loads((folder / "digest.json").read_text())
    change(content)
    (folder / "digest.json").write_text(json.dumps(content))


def _set(*path: Any, value: Any) -> Any:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


FIRST = ("files", 0, "ranges", 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_set("schema", value=2), "no digest file of schema 1"),
        (_set("files", value=None), "parts of it are missing"),
        (_set("files", value=[]), "names no bytes"),
        (_set("files", 0, "name", value="../secret"), "names them wrongly"),
        (_set("files", 0, "name", value=".."), "names them wrongly"),
        (_set(*FIRST, "offset", value=-1), "names them wrongly"),
        (_set(*FIRST, "offset", value=True), "names them wrongly"),
        (_set(*FIRST, "length", value=1 << 40), "names them wrongly"),
        (_set(*FIRST, "sha256", value="0"), "names them wrongly"),
        (_set(*FIRST, "offset", value=4), "do not make its own sha256"),
        (_set("files", 0, "ranges", value=[]), "names no bytes"),
    ],
)
def test_a_digest_file_that_is_none_is_refused_in_one_line(folder: Path, change: Any, found: str) -> None:
    _rewrite(folder, change)
    with pytest.raises(InputError, match=found):
        check_bytes(folder / "digest.json", folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "digest.json").write_text(text)
    with pytest.raises(InputError):
        check_bytes(folder / "digest.json", folder)


def test_a_digest_file_or_folder_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        check_bytes(folder / "none.json", folder)
    with pytest.raises(InputError, match="there is none"):
        check_bytes(folder / "digest.json", folder / "none")


def test_the_check_needs_the_standard_library_alone() -> None:
    program = (
        "import sys; from sw_audit import check_bytes; known = sys.stdlib_module_names; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} - known - {'__main__', 'sw_audit'}))"
    )
    environment = {"PYTHONPATH": str(Path(sw_audit.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", program]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
