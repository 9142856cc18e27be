from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sw_audit.backends import libraries, registry
from sw_audit.backends.method import REGISTERED, describe_failure, find_obstacle
from sw_audit.backends.registry import METHODS, find_methods
from sw_audit.errors import InputError


def test_every_method_has_a_name_of_its_own_and_one_way_to_work() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert all((method.pack is None) != (method.train is None) for method in METHODS)
    assert [method.name for method in METHODS] == [
        "bitsandbytes-nf4",
        "bitsandbytes-int8",
        "torchao-int8",
        "torchao-int4",
        "hqq-int4",
        "quanto-int8",
        "quanto-int4",
        "auto-round-awq",
        "auto-round-signround",
        "gptqmodel-gptq",
    ]
    assert [method.calibrates for method in METHODS] == [False] * 7 + [True] * 3


def test_a_file_among_the_libraries_registers_its_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nearest.py").write_text(
        "from sw_audit.backends.method import Method, Packed, register\n"
        "pack = lambda linear: Packed(linear, (linear.weight,))\n"
        "register(Method('nearest-int4', 'torch', '2', order=0, what='w', settings='s', pack=pack))\n"
    )
    before = list(REGISTERED)
    monkeypatch.setattr(libraries, "__path__", [*libraries.__path__, str(tmp_path)])
    try:
        assert importlib.reload(registry).METHODS[0].name == "nearest-int4"
        assert registry.find_methods(["nearest-int4"])[0].package == "torch"
    finally:
        REGISTERED[:] = before
        monkeypatch.undo()
        importlib.reload(registry)
    assert registry.METHODS == METHODS


def test_methods_come_in_the_order_of_the_names() -> None:
    assert [method.name for method in find_methods(["hqq-int4", "bitsandbytes-nf4"])] == [
        "hqq-int4",
        "bitsandbytes-nf4",
    ]


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    with pytest.raises(InputError, match=r"method 'bitsandbytes-nf5': .* write 'bitsandbytes-nf4'"):
        find_methods(["bitsandbytes-nf5"])


def test_a_package_that_is_missing_or_too_old_is_told_in_one_line() -> None:
    missing = dataclasses.replace(METHODS[0], package="sw-audit-has-no-such-package")
    assert find_obstacle(missing) == (
        "sw-audit-has-no-such-package is not installed (pip install 'sw-audit-has-no-such-package>=0.46')"
    )
    ancient = dataclasses.replace(METHODS[0], package="torch", minimum="1000")
    assert (find_obstacle(ancient) or "").startswith("torch 2.")
    assert "is older than 1000" in (find_obstacle(ancient) or "")
    assert find_obstacle(dataclasses.replace(ancient, minimum="2.0")) is None


def test_a_failure_is_one_line_however_much_the_library_says() -> None:
    assert describe_failure(ValueError("\n  first\nsecond")) == "ValueError: first"
    assert describe_failure(KeyError()) == "KeyError"
    assert len(describe_failure(ValueError("x" * 1000))) == 200


def test_the_list_of_methods_opens_no_library() -> None:
    names = ("bitsandbytes", "torchao", "hqq", "optimum", "auto_round", "gptqmodel")
    if not any(importlib.util.find_spec(name) for name in names):
        pytest.skip("none of the libraries is installed")
    code = f"import sys, sw_audit.backends.registry; print([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
