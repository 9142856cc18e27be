"""The architecture: which package may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = {
    "errors",
    "fact",
    "duration",
    "memory",
    "printable",
    "progress",
    "stopping",
    "toml_text",
    "policy",
    "record",
}
BASE |= {"extras", "leftovers"}

MAY_IMPORT: dict[str, set[str]] = {
    "printable": set(),
    "leftovers": set(),
    "toml_text": set(),
    "defect": {"printable"},
    "errors": {"printable"},
    "extras": {"errors"},
    "fact": set(),
    "critical_bytes": {"errors"},
    "duration": set(),
    "memory": set(),
    "progress": {"duration"},
    "stopping": {"duration", "progress"},
    "policy": {"errors", "fact", "duration", "memory", "printable", "toml_text", "checks"},
    "gguf_file": set(),
    "record": {"errors", "fact", "leftovers", "memory", "policy", "printable"},
    "checks": BASE,
    "quantize": BASE,
    "specimen": BASE | {"quantize"},
    "index": BASE | {"gguf_file"},
    "checkpoint": BASE | {"gguf_file"},
    "corpus": BASE | {"specimen"},
    "locate": BASE | {"checkpoint"},
    "arms": BASE | {"checkpoint", "quantize"},
    "measure": BASE | {"checkpoint", "corpus", "arms", "locate", "quantize"},
    "engines": BASE | {"__init__", "checkpoint", "corpus", "measure"},
    "critical": BASE | {"checkpoint", "corpus", "arms", "checks", "locate", "measure"},
    "testing": BASE | {"checks", "checkpoint", "locate"},
    "backends": BASE | {"checkpoint"},
    "export": BASE | {"__init__", "checkpoint", "arms", "quantize"},
    "files": BASE | {"checkpoint", "checks", "gguf_file"},
    "evidence": BASE | {"__init__", "checks", "checkpoint", "corpus", "runner", "specimen"},
    "runner": BASE
    | {
        "__init__",
        "arms",
        "backends",
        "checkpoint",
        "checks",
        "corpus",
        "critical",
        "critical_bytes",
        "engines",
        "files",
        "index",
        "locate",
        "measure",
        "specimen",
        "testing",
    },
    "training": BASE | {"checkpoint", "critical", "locate", "measure", "checks"},
    "cli": BASE
    | {
        "critical_bytes",
        "defect",
        "__init__",
        "checkpoint",
        "checks",
        "corpus",
        "evidence",
        "export",
        "index",
        "locate",
    }
    | {"runner", "specimen"},
    "ci": {"cli", "errors", "printable"},
    "sw_audit_reports": BASE | {"checks"},
    "pytest_sw_audit": BASE | {"__init__", "checkpoint", "checks", "runner"},
}
TORCH_PACKAGES = {
    "checkpoint", "corpus", "locate", "quantize", "arms", "measure", "specimen", "testing", "export", "backends",
    "runner", "training", "critical", "files", "engines",
}  # fmt: skip
HEAVY = {"torch", "transformers", "datasets", "safetensors", "tokenizers", "accelerate"}
HEAVY |= {"bitsandbytes", "torchao", "hqq", "optimum", "auto_round", "gptqmodel", "compressed_tensors"}


def package_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    if parts[0] in ("plugins", "reports"):
        return parts[1]
    return parts[1].removesuffix(".py")


def source_files() -> list[Path]:
    folders = ("sw_audit", "plugins/pytest_sw_audit", "reports/sw_audit_reports")
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def list_imports(tree: ast.AST, *, top_only: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every absolute import; relative ones are yielded with their dots."""
    for node in ast.walk(tree):
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def target_package(name: str) -> str | None:
    """Return the package that an imported name belongs to, or `None` for a foreign package."""
    parts = name.split(".")
    if parts[0] in ("sw_audit_reports", "pytest_sw_audit"):
        return parts[0]
    if parts[0] != "sw_audit":
        return None
    rooms = {file.name.removesuffix(".py") for file in (ROOT / "sw_audit").iterdir()}
    return parts[1] if len(parts) > 1 and parts[1] in rooms else "__init__"


# The public package names every module, lazily; test_light_import.py opens it.
CHECKED = [file for file in source_files() if package_of(file) != "__init__"]


def test_a_package_imports_only_what_the_table_allows() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in CHECKED
        for line, name in list_imports(ast.parse(file.read_text()))
        if name.startswith(".")
        or (
            (target := target_package(name)) is not None
            and target != package_of(file)
            and target not in MAY_IMPORT[package_of(file)]
        )
    ]
    assert wrong == []


def test_heavy_libraries_stay_in_their_packages() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in source_files()
        if package_of(file) not in TORCH_PACKAGES
        for name in {name.split(".")[0] for _, name in list_imports(ast.parse(file.read_text()))} & HEAVY
    ]
    assert wrong == []


def test_the_table_names_every_package_and_no_other() -> None:
    assert {package_of(file) for file in source_files()} - {"__init__", "__main__"} == set(MAY_IMPORT)


def test_the_table_has_no_circle() -> None:
    left = {package: set(allowed) - {package, "__init__"} for package, allowed in MAY_IMPORT.items()}
    left["policy"] -= {"checks"}  # the limits, which belong to the checks
    while left:
        free = [package for package, needs in left.items() if not needs & left.keys()]
        assert free, f"these packages import each other: {sorted(left)}"
        for package in free:
            del left[package]


def test_the_reader_of_imports_sees_an_import_in_a_function() -> None:
    tree = ast.parse("def f():\n    import torch\n    from sw_audit.checks import registry\n")
    assert [name for _, name in list_imports(tree)] == ["torch", "sw_audit.checks.registry"]


LAZY_DOORS = {
    "plugins/pytest_sw_audit/plugin.py": "every pytest run imports it",
    "plugins/pytest_sw_audit/fixtures.py": "so does every run that collects fixtures",
    "plugins/pytest_sw_audit/state.py": "the session is imported when an audit is asked for",
    "plugins/pytest_sw_audit/xdist.py": "every run under xdist imports it",
    "sw_audit/cli/audit.py": "the help of the command is printed without what it runs",
    "sw_audit/runner/on_ray.py": "what is sent to a worker looks at first whether the project is there",
}
"""Files that import modules of this project inside functions, and why; two others name them in tables."""


def test_modules_of_the_project_are_imported_at_the_top_but_for_the_lazy_doors() -> None:
    inner = {
        str(file.relative_to(ROOT))
        for file in source_files()
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for _, name in list_imports(function)
        if target_package(name) is not None
    }
    assert inner == set(LAZY_DOORS)
