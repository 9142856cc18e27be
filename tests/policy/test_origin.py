"""Where the parts of a policy stand in their file; the lines are counted by hand."""

from __future__ import annotations

from pathlib import Path

from sw_audit.policy.origin import TOOL_TABLE, PolicyOrigin, trace_policy
from sw_audit.policy.reading import parse_policy, read_policy
from sw_audit.toml_text import parse_toml

POLICY = """\
# one line,\u2028whatever is in it
inconclusive = "warn"

[[model]]
source = "a"

  [[ "model" ]]  # the second
source = "x/b"
id = "second"

[checks.perplexity-ratio]
maximum_ratio = 1.2

[[waiver]]
check = "prune-collapses"
model = "*"
until = 2999-12-31
owner = "Ada"
reason = "known"
"""


def trace(tmp_path: Path, text: str) -> PolicyOrigin:
    path = tmp_path / "deep" / "it.swaudit.toml"
    path.parent.mkdir()
    path.write_text(text)
    found = trace_policy(read_policy(path), path, tmp_path, whole=True)
    assert found is not None
    return found


def test_each_table_has_its_line_and_the_path_is_told_from_the_root(tmp_path: Path) -> None:
    assert trace(tmp_path, POLICY) == PolicyOrigin(
        path="deep/it.swaudit.toml",
        models={"a": 4, "second": 7},
        checks={"perplexity-ratio": 11},
        waivers=(14,),
        whole=True,
    )


def test_a_limit_under_a_dotted_key_or_in_a_line_has_the_line_that_begins_with_it(tmp_path: Path) -> None:
    found = trace(
        tmp_path, "seed = 3\n\n[checks]\nprune-collapses.enabled = false\n'layer-error' = {enabled = false}\n"
    )
    assert found.checks == {"prune-collapses": 4, "layer-error": 5}


def test_models_that_are_no_tables_have_no_lines(tmp_path: Path) -> None:
    text = 'model = [{source = "a"}, {source = "b"}]\n[corpus]\nsource = """\n[[model]]\n"""\n'
    assert trace(tmp_path, text).models == {}


def test_what_only_looks_like_a_header_gives_no_line_rather_than_a_wrong_one(tmp_path: Path) -> None:
    assert trace(tmp_path, '[[model]]\nsource = """\n[[model]]\n"""\n').models == {}


def test_of_a_pyproject_the_tool_table_is_told_and_nothing_without_one(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    text = '[project]\nname = "x"\n[[tool.sw_audit.model]]\nsource = "a"\n'
    text += "[tool.sw_audit.checks.layer-error]\nenabled = false\n"
    path.write_text(text)
    policy = parse_policy(parse_toml(text)["tool"]["sw_audit"], "here")
    found = PolicyOrigin(path="pyproject.toml", models={"a": 3}, checks={"layer-error": 5})
    assert trace_policy(policy, path, tmp_path, table=TOOL_TABLE) == found
    path.write_text('[project]\nname = "x"\n')
    assert trace_policy(policy, path, tmp_path, table=TOOL_TABLE) is None
    path.unlink()
    assert trace_policy(policy, path, tmp_path, table=TOOL_TABLE) is None
