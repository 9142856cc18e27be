"""What lies in a checkpoint's folder beside what is read of it, and could run or mislead whoever serves it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.errors import CheckpointError
from sw_audit.record.checkpoint import Flaw

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib", ".sh", ".exe")
_OTHER_WEIGHTS = (".safetensors", ".gguf")
_CODE_FOLDER = "custom_generate"
_CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def look_around(folder: CheckpointFolder) -> Iterator[Flaw]:
    """Yield what lies there beside what is read: pickles, code, other weights, templates that reach too far.

    Nothing of it is serious, for nothing of it is read here; a folder is not looked at where a file is the model.
    """
    if folder.file is not None:
        return
    read = {path.name for path in folder.weight_files}
    run = "trust_remote_code is set, so it may have run" if folder.policy.trust_remote_code else "it did not run"
    code = [path.name for path in folder.contents if path.name.endswith(_CODE)]
    code += [f"{_CODE_FOLDER}/{path.name}" for path in sorted((folder.path / _CODE_FOLDER).glob("*.py"))]
    for name in code:
        found = f"this is code, which runs where code of its own is allowed to a model; {run}"
        yield Flaw(kind="code-beside", where=name, found=found, serious=False)
    for name in _CONFIGS:
        named = _read(folder, name).get("auto_map")
        for key, value in (named if isinstance(named, dict) else {}).items():
            found = f"auto_map says that {key} is code of its own, {value!r:.80}; {run}"
            yield Flaw(kind="code-beside", where=name, found=found, serious=False)
    for path in folder.contents:
        if path.name not in read and path.name.endswith(_PICKLES):
            found = "this may be a pickle, which can run code when it is read; it was not read"
            yield Flaw(kind="pickle-beside", where=path.name, found=found, serious=False)
        elif path.name not in read and path.name.endswith(_OTHER_WEIGHTS):
            found = "these are weights that are no part of the model, and another program may take them for it"
            yield Flaw(kind="weights-beside", where=path.name, found=found, serious=False)
    for name, template in _list_templates(folder):
        if (reached := find_reach(template)) is not None:
            yield Flaw(kind="template-reach", where=name, found=reached, serious=False)


def find_reach(template: str) -> str | None:
    """Say what a chat template reaches for that no chat needs: attributes of Python's own, or other files.

    The template is parsed and not rendered. `None` if it reaches for nothing.
    """
    try:
        tree = _parse(template)
    except (TemplateError, RecursionError) as error:
        return f"the chat template is no template ({str(error) or type(error).__name__})"
    if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None) is not None:
        return "the chat template asks for another file"
    names = [node.attr for node in tree.find_all(nodes.Getattr)]
    names += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    # Constants, too, for `x["__class__"]`, `x | attr("__class__")` and `"__cla" ~ "ss__"` say the same.
    private = next((name for name in names if name.startswith("__") or name.endswith("__")), None)
    return None if private is None else f"the chat template reaches for {private[:80]!r}"


def list_constants(template: str) -> list[str]:
    """List the strings that a chat template has in its code, each once; none where it is no template."""
    try:
        found = [node.value for node in _parse(template).find_all(nodes.Const) if isinstance(node.value, str)]
    except (TemplateError, RecursionError):
        return []
    return list(dict.fromkeys(found))


def _parse(template: str) -> nodes.Template:
    environment = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    return environment.parse(template)


class _Generation(Extension):
    """The tag by which transformers marks what an assistant said."""

    tags = {"generation"}  # noqa: RUF012 - so the library asks for it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Take what is between it and its end."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _list_templates(folder: CheckpointFolder) -> Iterator[tuple[str, str]]:
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        stored: Any = _read(folder, name).get("chat_template")
        if isinstance(stored, dict):
            stored = [{"template": template} for template in stored.values()]
        parts = stored if isinstance(stored, list) else [{"template": stored}]
        texts = [part.get("template") for part in parts if isinstance(part, dict)]
        yield from ((name, text) for text in texts if isinstance(text, str))
    for path in (*folder.path.glob("*.jinja"), *folder.templates):
        yield path.name, path.read_text(encoding="utf-8", errors="replace")


def _read(folder: CheckpointFolder, name: str) -> dict[str, Any]:
    """Read a file for what it may say; what is wrong with it, opening says."""
    try:
        content = folder.read_json(name) if folder.holds(name) else {}
    except (CheckpointError, OSError):
        return {}
    return content
