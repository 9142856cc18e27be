"""What a store of hidden states keeps comes back as it was, whatever the limit, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sw_audit.errors import OutputError
from sw_audit.leftovers import clear_leftovers
from sw_audit.measure.states import KeptState, States, StateStore

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def count_files(place: Path) -> int:
    return sum(path.is_file() for path in place.rglob("*"))


def draw(seed: int, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel() * dtype.itemsize
    values = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), generator=chance, dtype=torch.uint8)
    whole = values.view(dtype).view(shape)
    match layout:
        case "transposed":
            return whole.transpose(0, -1)
        case "sliced":
            return whole[..., ::2]
        case "expanded":
            return whole[..., :1].expand(shape)
    return whole


def bits(tensor: Tensor) -> bytes:
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()


tensors = st.builds(
    draw,
    st.integers(0, 99),
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 7)),
    st.sampled_from(DTYPES),
    st.sampled_from(["plain", "transposed", "sliced", "expanded"]),
)


@settings(max_examples=40)
@given(put=st.lists(tensors, max_size=6), limit=st.none() | st.integers(0, 1000), data=st.data())
def test_what_was_put_in_comes_back_bit_for_bit_in_any_order(
    put: list[Tensor], limit: int | None, data: st.DataObject
) -> None:
    expected = [(tensor.dtype, tensor.shape, bits(tensor)) for tensor in put]
    with StateStore(limit) as store:
        states = States(store)
        for tensor in put:
            states.append(tensor)
        order = data.draw(st.lists(st.sampled_from(range(len(put))), max_size=12)) if put else []
        for batch in [*order, *range(len(put))]:
            loaded = states[batch]
            assert (loaded.dtype, loaded.shape, bits(loaded)) == expected[batch]


def test_what_lies_in_memory_in_another_order_of_dimensions_comes_back_in_that_order() -> None:
    with StateStore(0) as store:
        assert store.keep(torch.rand(2, 3, 4).transpose(1, 2)).load().stride() == (12, 1, 4)


def test_what_fits_stays_in_memory_and_the_rest_is_on_disk(place: Path) -> None:
    with StateStore(2 * 400) as store:
        first, second, third = (store.keep(torch.full((100,), float(number))) for number in range(3))
        assert count_files(place) == 1
        assert first.load() is first.load()
        assert third.load() is not third.load()
        # Room that was made is used.
        del second
        fourth = store.keep(torch.zeros(100))
        assert count_files(place) == 1
        assert fourth.load() is fourth.load()
    with StateStore(None) as store:
        kept = [store.keep(torch.zeros(1000)) for _ in range(9)]
        assert count_files(place) == 0
        assert len(kept) == 9


def test_what_nobody_refers_to_is_gone_from_disk_at_once(place: Path) -> None:
    with StateStore(0) as store:
        states, other = States(store), States(store)
        for _ in range(3):
            states.append(torch.ones(5))
        other.append_same(states)
        assert count_files(place) == 3
        states.let_go(1)
        assert count_files(place) == 2
        with pytest.raises(LookupError, match="batch 1 were let go"):
            states[1]
        del states
        assert count_files(place) == 1
        assert torch.equal(other[0], torch.ones(5))


def test_nothing_is_left_at_the_end_also_after_an_exception(place: Path) -> None:
    kept: list[KeptState] = []

    def fail() -> None:
        with StateStore(0) as store:
            kept.append(store.keep(torch.ones(5)))
            [folder] = place.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert list(place.iterdir()) == []
    store = StateStore(0)
    kept.append(store.keep(torch.ones(5)))
    kept.clear()
    del store
    assert list(place.iterdir()) == []


def test_a_killed_process_leaves_nothing_that_the_next_one_does_not_take_away(place: Path) -> None:
    program = (
        "import os, torch; from sw_audit.measure.states import StateStore;"
        "kept = StateStore(0).keep(torch.ones(5)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(place)}, check=False)
    assert count_files(place) == 1
    clear_leftovers()
    assert list(place.iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(place: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StateStore(0) as store:
        kept = store.keep(torch.ones(5))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            with pytest.raises(OutputError) as refused:
                store.keep(torch.ones(5000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        line = f"hidden states in {place}: {os.strerror(errno.EFBIG)}; free some space there, set TMPDIR"
        assert str(refused.value).startswith(line)
        assert len(str(refused.value).splitlines()) == 1
        del refused
        assert count_files(place) == 1
        assert torch.equal(kept.load(), torch.ones(5))
    assert list(place.iterdir()) == []


def test_a_folder_that_vanishes_is_one_clear_line(place: Path) -> None:
    with StateStore(0) as store:
        kept, cut = store.keep(torch.ones(5)), store.keep(torch.ones(5))
        first, second = sorted(path for path in place.rglob("*.bin"))
        first.unlink()
        second.write_bytes(b"1")
        for one in (kept, cut):
            with pytest.raises(
                OutputError, match=r"hidden states in .*; leave the folder of temporary files alone"
            ):
                one.load()


def test_a_folder_that_is_kept_in_memory_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [type("Mount", (), {"mountpoint": point, "fstype": "tmpfs"}) for point in (str(place), "/var")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    with StateStore(0) as store, pytest.raises(OutputError, match="is itself kept in memory; set TMPDIR"):
        store.keep(torch.ones(5))


@pytest.mark.slow
def test_states_of_ten_times_the_limit_do_not_count_as_memory_of_the_process(place: Path) -> None:
    program = """
import resource, torch
from sw_audit.measure.states import States, StateStore
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.ones(1 << 20).clone()
before, limit = peak(), 32 << 20
with StateStore(limit) as store:
    states = States(store)
    for number in range(80):
        states.append(torch.full((1 << 20,), float(number)))
    for _ in range(2):
        assert all(float(one[-1]) == number for number, one in enumerate(states))
print(1024 * (peak() - before) / limit)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    # Beside the limit there are the tensor that is put in and the one that is loaded, each an eighth of it.
    assert float(ran.stdout) < 1.5
