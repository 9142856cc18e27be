"""The architecture: which room may import which. The table is the plan of the house."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FACTS = {"facts", "errors"}
PURE_MIDDLE = {"audit", "plan", "judge", "record", "policy"} | FACTS

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "facts": {"errors"},
    "plan": FACTS,
    "policy": FACTS,
    "judge": FACTS,
    "record": FACTS,
    "quantize": FACTS,
    "specimen": FACTS | {"quantize"},
    "index": FACTS,
    "checkpoint": FACTS,
    "corpus": FACTS | {"specimen"},
    "locate": FACTS | {"checkpoint"},
    "intervene": FACTS | {"checkpoint", "quantize"},
    "measure": FACTS | {"checkpoint", "corpus", "intervene", "locate", "quantize"},
    "testing": FACTS | {"checkpoint", "locate"},
    "alternatives": FACTS | {"checkpoint"},
    "export": FACTS | {"__init__", "checkpoint", "intervene", "quantize"},
    "examination": FACTS | {"index", "plan", "record", "checkpoint", "corpus", "locate", "measure", "testing"},
    "gate": FACTS | {"examination", "judge", "record", "checkpoint", "corpus", "locate", "measure"},
    "audit": FACTS
    | {"__init__"}
    | {
        "examination",
        "gate",
        "index",
        "judge",
        "record",
        "checkpoint",
        "corpus",
        "measure",
        "testing",
        "__init__",
    },
    "compare": FACTS
    | {"audit", "judge", "record", "alternatives", "checkpoint", "corpus", "intervene", "locate", "measure"},
    "recall": FACTS | {"audit", "record", "checkpoint", "corpus"},
    "training": FACTS | {"checkpoint", "locate", "measure", "judge", "record"},
    "cli": PURE_MIDDLE | {"__init__", "compare", "index", "specimen", "checkpoint", "corpus", "locate", "export"},
    "sw_audit_reports": FACTS,
    "pytest_sw_audit": PURE_MIDDLE | {"__init__", "recall"},
}
TORCH_ROOMS = {
    "checkpoint", "corpus", "locate", "quantize", "intervene", "measure", "specimen", "testing", "export",
    "alternatives", "training",
}  # fmt: skip
HEAVY = {"torch", "transformers", "datasets", "safetensors", "tokenizers", "accelerate"}
HEAVY |= {"bitsandbytes", "torchao", "hqq", "optimum", "auto_round", "gptqmodel", "compressed_tensors"}


def room_of(file: Path) -> str:
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


def module_level(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the imports that run when the module is imported: not those in functions or for type checkers."""

    def visit(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
                continue
            yield statement
            for name in ("body", "orelse", "finalbody"):
                yield from visit(getattr(statement, name, []))

    for statement in visit(tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from list_imports(statement)


def target_room(name: str) -> str | None:
    """Return the room that an imported name belongs to, or `None` for a foreign package."""
    parts = name.split(".")
    if parts[0] in ("sw_audit_reports", "pytest_sw_audit"):
        return parts[0]
    if parts[0] != "sw_audit":
        return None
    rooms = {file.name.removesuffix(".py") for file in (ROOT / "sw_audit").iterdir()}
    return parts[1] if len(parts) > 1 and parts[1] in rooms else "__init__"


EDGES = ("pytest_sw_audit", "cli", "audit", "compare", "examination", "gate", "__init__")
# The front door names every room, lazily; tests/house/test_light_import.py opens it.
ROOMS = [file for file in source_files() if room_of(file) != "__init__"]


@pytest.mark.parametrize("file", ROOMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_what_the_table_allows(file: Path) -> None:
    room = room_of(file)
    wrong = [
        f"{file.name}:{line} imports {name}"
        for line, name in list_imports(ast.parse(file.read_text()))
        if name.startswith(".")
        or ((target := target_room(name)) is not None and target != room and target not in MAY_IMPORT[room])
    ]
    assert wrong == []


@pytest.mark.parametrize("file", source_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_rooms(file: Path) -> None:
    heavy = {name.split(".")[0] for _, name in list_imports(ast.parse(file.read_text()))} & HEAVY
    assert not heavy or room_of(file) in TORCH_ROOMS


@pytest.mark.parametrize(
    "file",
    [file for file in source_files() if room_of(file) in EDGES],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_edges_open_heavy_rooms_only_inside_functions(file: Path) -> None:
    for line, name in module_level(ast.parse(file.read_text())):
        if room_of(file) == "pytest_sw_audit" and name.split(".")[0] == "sw_audit":
            pytest.fail(f"{file.name}:{line} imports {name} when pytest starts")
        assert target_room(name) not in TORCH_ROOMS - {"specimen"}, f"{file.name}:{line} imports {name}"


def test_the_table_names_every_room_and_no_other() -> None:
    assert {room_of(file) for file in source_files()} - {"__init__", "__main__"} == set(MAY_IMPORT)


def test_the_table_has_no_circle() -> None:
    left = {room: set(allowed) - {room, "__init__"} for room, allowed in MAY_IMPORT.items()}
    while left:
        free = [room for room, needs in left.items() if not needs & left.keys()]
        assert free, f"these rooms import each other: {sorted(left)}"
        for room in free:
            del left[room]


def test_the_reader_of_imports_sees_an_import_in_a_function() -> None:
    tree = ast.parse("def f():\n    import torch\n    from sw_audit.judge import bench\n")
    assert [name for _, name in list_imports(tree)] == ["torch", "sw_audit.judge.bench"]
    assert list(module_level(tree)) == []
