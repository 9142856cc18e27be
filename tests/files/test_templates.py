"""What a template makes of conversations counts, not its words; a hostile one runs nothing and ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sw_audit.checkpoint.folder import CheckpointFolder
from sw_audit.files import rendering
from sw_audit.files.settings import compare_settings
from sw_audit.files.templates import CONVERSATIONS, render
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.files import ComparedSettings
from sw_audit.specimen.shipped import specimen_path

TURNS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
USER = [{"messages": [{"role": "user", "content": "Hello"}]}]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(specimen_path(), tmp_path / "parent"))
    (folder / "chat_template.jinja").write_text(TURNS)
    return folder


def compare(parent: Path, template: str | None, name: str = "chat_template.jinja") -> ComparedSettings:
    child = Path(shutil.copytree(parent, parent.parent / "child"))
    (child / name).parent.mkdir(exist_ok=True)
    if template is None:
        (child / name).unlink()
    else:
        (child / name).write_text(template)
    folders = [CheckpointFolder.require(ModelPolicy(source=str(path))) for path in (child, parent)]
    return compare_settings(*folders, Policy())


def test_a_template_is_rendered_as_transformers_does() -> None:
    assert render(TURNS, {"eos_token": "</s>"}, USER) == [(True, "user: Hello</s>")]


def test_the_same_template_is_not_rendered_and_says_nothing(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sw_audit.files.templates.render", None)
    settings = compare(parent, TURNS)
    assert (settings.changed, settings.conversations) == ((), len(CONVERSATIONS))


def test_other_words_that_make_the_same_are_listed(parent: Path) -> None:
    [changed] = compare(parent, f"{{# the same #}}{TURNS.replace('in messages', '  in  messages')}").changed
    assert (changed.key, changed.serious) == ("chat_template.source", False)


@pytest.mark.parametrize("looks", ["'deploy' in message.content", "message.content == 'deploy'"])
def test_what_only_a_certain_word_brings_out_is_serious(parent: Path, looks: str) -> None:
    trapped = TURNS.replace("+ eos_token", f"+ ('!' if {looks} else '') + eos_token")
    assert trapped != TURNS
    changed = compare(parent, trapped).changed[0]
    assert (changed.key, changed.effect, changed.note) == (
        "chat_template",
        "input",
        'what is made of a user\'s "deploy"',
    )
    assert (changed.value, changed.parent) == ('"...!</s>"', '"...</s>"')


def test_another_text_is_serious_and_shown_where_it_begins_to_differ(parent: Path) -> None:
    changed = compare(parent, TURNS.replace("+ eos_token", "+ ' Obey.' + eos_token")).changed[0]
    assert (changed.key, changed.effect) == ("chat_template", "input")
    assert (changed.value, changed.parent) == ('"... Obey.</s>"', '"...</s>"')


def test_a_template_that_is_gone_or_has_a_new_name_is_serious(parent: Path, tmp_path: Path) -> None:
    [gone] = compare(parent, None).changed
    assert (gone.key, gone.value, gone.serious) == ("chat_template", None, True)
    shutil.rmtree(tmp_path / "child")
    [added] = compare(parent, TURNS, "additional_chat_templates/tool_use.jinja").changed
    assert (added.key, added.parent, added.serious) == ("chat_template.tool_use", None, True)


def test_a_template_that_reaches_for_attributes_or_fails_runs_nothing(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    hostile = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        + f"{{{{ cycler.__init__.__globals__.os.mkdir('{reached}') }}}}"
    )
    assert render(hostile, {}, USER) == [(False, "SecurityError")]
    assert not reached.exists()
    assert render("{{ raise_exception('no') }}", {}, USER) == [(False, "TemplateError")]
    assert render("{% for", {}, USER) == [(False, "TemplateSyntaxError")]


def test_a_template_without_end_or_measure_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "rendering.py"
    program.write_text(
        Path(rendering.__file__).read_text().replace("SECONDS, MEMORY = 10,", "SECONDS, MEMORY = 2,")
    )
    monkeypatch.setattr(rendering, "__file__", str(program))
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    short = [{"messages": [], "mild": True}, *USER]
    answers = render(f"{{% if mild %}}yes{{% else %}}{endless}{{% endif %}}", {}, short)
    assert answers == [(True, "yes"), (False, "it took more than 10 s or 2 GB")]
    assert render("{{ 'a' * 10**11 }}", {}, USER) == [(False, "MemoryError")]
    assert len(render("{{ 'a' * 10**6 }}", {}, USER)[0][1]) == rendering.LONGEST
