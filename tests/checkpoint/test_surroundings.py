"""What lies in a folder beside the model is told, and fails nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import rewrite_config, save_checkpoint
from support.linting import lint, only

from sw_audit.checkpoint.surroundings import find_reach
from sw_audit.policy.model_policy import ModelPolicy


def _write(name: str, text: str = "") -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return act


def _set_template(template: object) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))

    return act


REACHES = "{{ messages.__class__ }}"
BESIDE: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "modeling": (_write("modeling_odd.py"), "code-beside", "modeling_odd.py", "it did not run"),
    "library": (_write("kernel.so"), "code-beside", "kernel.so", "it did not run"),
    "generate": (
        _write("custom_generate/generate.py"),
        "code-beside",
        "custom_generate/generate.py",
        "it did not",
    ),
    "map": (
        lambda folder: rewrite_config(folder, auto_map={"AutoConfig": "odd.OddConfig"}),
        "code-beside",
        "config.json",
        "auto_map says that AutoConfig is code of its own, 'odd.OddConfig'; it did not run",
    ),
    "pickle": (_write("pytorch_model.bin"), "pickle-beside", "pytorch_model.bin", "it was not read"),
    "optimizer": (_write("optimizer.pt"), "pickle-beside", "optimizer.pt", "it was not read"),
    "shard": (_write("model-00002-of-00002.safetensors"), "weights-beside", "model-00002", "no part of the model"),
    "gguf": (_write("it.gguf"), "weights-beside", "it.gguf", "no part of the model"),
    "template": (_set_template(REACHES), "template-reach", "tokenizer_config.json", "reaches for '__class__'"),
    "templates": (
        _set_template([{"name": "a", "template": "x"}, {"name": "b", "template": REACHES}]),
        "template-reach",
        "tokenizer_config.json",
        "reaches for '__class__'",
    ),
    "file": (_write("chat_template.jinja", REACHES), "template-reach", "chat_template.jinja", "reaches for"),
    "more": (_write("additional_chat_templates/a.jinja", REACHES), "template-reach", "a.jinja", "reaches for"),
    "architecture": (
        lambda folder: rewrite_config(folder, architectures=["MistralForCausalLM"]),
        "other-architecture",
        "config.json",
        "architectures names MistralForCausalLM, and transformers makes LlamaForCausalLM of it",
    ),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_could_run_or_mislead_is_told_and_fails_nothing(case: str, tmp_path: Path) -> None:
    change, kind, where, found = BESIDE[case]
    change(save_checkpoint(tmp_path))
    report = lint(tmp_path)
    flaw = only(report)
    assert (flaw[0], flaw[3], report.intact) == (kind, False, True)
    assert flaw[1].startswith(where)
    assert found in flaw[2]


def test_of_a_file_that_is_the_model_its_neighbours_are_not_told(tmp_path: Path) -> None:
    _write("modeling_odd.py")(save_checkpoint(tmp_path))
    assert lint(tmp_path / "model.safetensors").flaws == ()
    assert ModelPolicy(source=str(tmp_path)).trust_remote_code is False
    assert "may have run" in only(lint(tmp_path, trust_remote_code=True))[2]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ x['__globals__'] }}", "the chat template reaches for '__globals__'"),
        ("{{ x | attr('__init__') }}", "the chat template reaches for '__init__'"),
        ("{{ x | map(attribute='__mro__') | list }}", "the chat template reaches for '__mro__'"),
        ("{{ x['__cla' ~ 'ss__'] }}", "the chat template reaches for '__cla'"),
        ("{% include '/etc/passwd' %}", "the chat template asks for another file"),
        ("{% if %}", "the chat template is no template"),
        ("{{" + "(" * 100_000, "the chat template is no template"),
        ("{% for m in messages %}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{% endfor %}", None),
        ("{% generation %}{{ m['role'] | trim }}<|im_end|>{% endgeneration %}", None),
        ("{{ raise_exception('no __ here') }}", None),
    ],
)
def test_a_template_is_parsed_for_what_no_chat_needs(template: str, found: str | None) -> None:
    reached = find_reach(template)
    assert reached == found or (found is not None and (reached or "").startswith(found))
