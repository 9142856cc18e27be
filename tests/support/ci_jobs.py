"""The GitHub Action and the GitLab component without the services: scripts run, the rest is put on record."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_INPUT = re.compile(r"\$\[\[ inputs\.([\w-]+) \]\]")
_TOKEN = re.compile(r"'(?:[^']|'')*'|[a-z]+\(\)|[a-z]+(?:\.[\w-]+)+|&&|\|\||==|!=|!|[()]|\s+")
_PYTHON = {"&&": " and ", "||": " or ", "!": " not ", "always()": "True"}
_STATUS = re.compile(r"\b(?:always|cancelled|success|failure)\(\)")


@dataclass(frozen=True)
class Step:
    """What became of a step.

    Attributes:
        name: Its name.
        outcome: `success`, `failure` or `skipped`.
        log: What a `run` step printed.
        given: What a `uses` step was given.
    """

    name: str
    outcome: str
    log: str = ""
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """What became of the action: its conclusion, its steps by name, and its outputs."""

    conclusion: str
    steps: dict[str, Step]
    outputs: dict[str, str]


@dataclass
class Sandbox:
    """A runner of GitHub: a workspace, and the environment in which jobs run.

    Attributes:
        folder: Holds the workspace and everything else.
        variables: The environment of every `run` step.
        results: The outputs of `uses` steps by the repository of the action, or `None` for one that fails.
    """

    folder: Path
    variables: dict[str, str]
    results: dict[str, dict[str, str] | None] = field(default_factory=dict)

    @property
    def workspace(self) -> Path:
        """Where jobs run."""
        place = self.folder / "workspace"
        place.mkdir(exist_ok=True)
        return place

    @property
    def summary(self) -> str:
        """The job summary."""
        return (self.folder / "summary.md").read_text(encoding="utf-8")

    def run(self, inputs: Mapping[str, str], *, cancelled_after: str | None = None) -> Run:
        """Run the project's action; after the step of the name `cancelled_after` the run counts as cancelled."""
        action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
        assert set(inputs) <= set(action["inputs"])
        contexts: dict[str, Any] = {
            "github": {"token": "ghs_secret", "run_id": "9", "run_attempt": "1"},
            "runner": {"os": "Linux"},
            "steps": {},
        }
        declared = {name: str(each["default"]) for name, each in action["inputs"].items()}
        contexts["inputs"] = {name: interpolate(value, contexts) for name, value in declared.items()}
        contexts["inputs"] |= inputs
        status, steps = "success", {}
        for each in action["runs"]["steps"]:
            if not decide(each.get("if", ""), contexts, status):
                step, outputs = Step(each["name"], "skipped"), {}
            elif "uses" in each:
                step, outputs = self._use(each, contexts)
            else:
                step, outputs = self._run_script(each, contexts)
            steps[step.name] = step
            if "id" in each:
                contexts["steps"][each["id"]] = {"outcome": step.outcome, "outputs": outputs}
            if step.outcome == "failure" and not each.get("continue-on-error"):
                status = "failure"
            if step.name == cancelled_after:
                status = "cancelled"
        outputs = {name: interpolate(each["value"], contexts) for name, each in action["outputs"].items()}
        return Run(status, steps, outputs)

    def _use(self, declared: Mapping[str, Any], contexts: Mapping[str, Any]) -> tuple[Step, dict[str, str]]:
        given = {name: interpolate(str(value), contexts) for name, value in declared["with"].items()}
        outputs = self.results.get(declared["uses"].partition("@")[0], {})
        outcome = "failure" if outputs is None else "success"
        return Step(declared["name"], outcome, given=given), outputs or {}

    def _run_script(self, declared: Mapping[str, Any], contexts: Mapping[str, Any]) -> tuple[Step, dict[str, str]]:
        assert declared["shell"] == "bash"
        script, output = self.folder / "script.sh", self.folder / "output"
        script.write_text(declared["run"], encoding="utf-8")
        output.write_text("")
        own = {name: interpolate(str(value), contexts) for name, value in declared.get("env", {}).items()}
        service = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_WORKSPACE": str(self.workspace),
            "HOME": str(self.folder),
            "RUNNER_TEMP": str(self.folder),
        }
        run = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            env=service | self.variables | own,
            cwd=self.workspace,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return Step(declared["name"], "failure" if run.returncode else "success", run.stdout), outputs


def interpolate(text: str, contexts: Mapping[str, Any]) -> str:
    """Put the values of expressions into a text."""
    return _EXPRESSION.sub(lambda found: str(evaluate(found[1], contexts)), text)


def decide(condition: str, contexts: Mapping[str, Any], status: str) -> bool:
    """Tell whether a step runs: unless its condition asks for the status, only while everything went well."""
    bare = found[1] if (found := _EXPRESSION.fullmatch(condition)) else condition
    if not _STATUS.search(bare) and status != "success":
        return False
    return bool(evaluate(bare or "always()", contexts, status))


def evaluate(expression: str, contexts: Mapping[str, Any], status: str = "success") -> Any:
    """Evaluate an expression of names, strings, comparisons, `&&`, `||`, `!` and functions of the status."""
    found = list(_TOKEN.finditer(expression))
    assert "".join(token[0] for token in found) == expression, f"more than this runner knows: {expression}"
    return eval("".join(_translate(token[0], contexts, status) for token in found).strip())  # noqa: S307


def _translate(word: str, contexts: Mapping[str, Any], status: str) -> str:
    if word.startswith("'"):
        return repr(word[1:-1].replace("''", "'"))
    if word.endswith("()") and word != "always()":
        return repr(status == {"cancelled()": "cancelled", "success()": "success", "failure()": "failure"}[word])
    if "." in word:
        return repr(_look_up(word.split("."), contexts))
    return _PYTHON.get(word, word)


def _look_up(path: list[str], contexts: Mapping[str, Any]) -> Any:
    """Return what a context holds; what it does not hold is empty, but a context that there is not is an error."""
    held = contexts[path[0]]
    for name in path[1:]:
        held = held.get(name, "") if isinstance(held, Mapping) else ""
    return held


@dataclass(frozen=True)
class Job:
    """What became of a job of GitLab: its exit code, and what it printed, after the script too."""

    code: int
    log: str
    after: str


def read_component(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the project's GitLab component; return its header, and its jobs with these inputs."""
    header, jobs = yaml.safe_load_all((ROOT / "templates" / "audit.yml").read_text(encoding="utf-8"))
    declared = header["spec"]["inputs"]
    assert set(inputs) <= set(declared)
    values = {name: each["default"] for name, each in declared.items()} | dict(inputs)
    return header, _fill(jobs, values)


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    """Put inputs into strings; one that is the whole string keeps its type."""
    if isinstance(node, dict):
        return {_fill(name, values): _fill(each, values) for name, each in node.items()}
    if isinstance(node, list):
        return [_fill(each, values) for each in node]
    if not isinstance(node, str):
        return node
    if whole := _INPUT.fullmatch(node):
        return values[whole[1]]
    return _INPUT.sub(lambda found: _write(values[found[1]]), node)


def _write(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def run_component(inputs: Mapping[str, Any], workspace: Path, variables: Mapping[str, str]) -> Job:
    """Run the job of the project's GitLab component in a folder, and what comes after its script."""
    [job] = read_component(inputs)[1].values()
    environment = {"CI": "true", "GITLAB_CI": "true", "CI_PROJECT_DIR": str(workspace), "HOME": str(workspace)}
    environment |= variables | job["variables"]

    def run(lines: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-e", "-c", "\n".join(lines)],
            env=environment,
            cwd=workspace,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )

    done = run(job["script"])
    return Job(done.returncode, done.stdout, run(job["after_script"]).stdout)


def make_environment(folder: Path, base: str) -> Path:
    """Make a Python environment that sees the packages of another and installs into its own; return its programs.

    `base` is the interpreter of the other.
    """
    place = folder / "python"
    subprocess.run([base, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    ask = [base, "-c", "import site; print(site.getsitepackages()[0])"]
    seen = subprocess.run(ask, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "base.pth").write_text(f"import site; site.addsitedir({seen!r})\n")
    return place / "bin"


def list_variables(programs: Path) -> dict[str, str]:
    """Return an environment in which these programs come first, and pip installs without asking an index."""
    kept = {name: os.environ[name] for name in ("HF_HUB_OFFLINE", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    # What is to be built is built with what is there, which pip calls this.
    return kept | {"PATH": f"{programs}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
