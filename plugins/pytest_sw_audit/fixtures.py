"""Fixtures for one's own assertions on the models of a run.

Tests that use them run once per model of the run: those given by options, by policy files named on the command
line, or by `[tool.sw_audit]`. All checks and tests of a run share one measuring pass per model. For instance::

    import pytest


    def test_one_scalar_carries_the_model(sw_location):
        assert sw_location.outcome == "located"
        assert len(sw_location.super_weights) == 1


    def test_four_bits_cost_less_than_a_tenth(sw_measurements):
        whole, rounded = sw_measurements["baseline"], sw_measurements["int4/64x64 hold-out"]
        assert rounded.loss.ratio_to(whole.loss) < 1.1


    @pytest.mark.sw_audit(check="prune-collapses")
    def test_the_damage_is_surely_tenfold(sw_verdicts):
        assert sw_verdicts["prune-collapses"].low > 10


    def test_the_model_is_in_evaluation_mode(sw_model):
        assert not sw_model.model.training
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sw_audit.state import find_session

if TYPE_CHECKING:
    from pytest_sw_audit.session import AuditSession
    from sw_audit import Checkpoint
    from sw_audit.policy.policy import Policy
    from sw_audit.record.location import Location
    from sw_audit.record.measurement import Measurement
    from sw_audit.record.record import ModelFailure, ModelResult
    from sw_audit.record.verdict import Verdict
    from sw_audit.runner.assignments import Case

MARKER = (
    "sw_audit(model=None, check=None): on a test with sw_... fixtures, run it only for this model (an id, or a "
    "list of ids), and have only this check (or these) measured and judged. Every item of an audit carries it too."
)
_CASE = "_sw_audit_case"
_MEASURED = {"sw_measurements", "sw_verdicts"}
_NO_MODEL = (
    "no model to audit: give one with --sw-audit-model, a policy file, or [tool.sw_audit] in pyproject.toml"
)


@pytest.fixture(scope="session", name=_CASE)
def _case(request: pytest.FixtureRequest) -> Case:
    case: Case = request.param
    return case


@pytest.fixture(scope="session")
def sw_policy(_sw_audit_case: Case, pytestconfig: pytest.Config) -> Policy:
    """The policy that the model is audited under, options included."""
    return find_session(pytestconfig).assignments[_sw_audit_case.key].policy


@pytest.fixture(scope="session")
def sw_model(_sw_audit_case: Case, pytestconfig: pytest.Config) -> Iterator[Checkpoint]:
    """The open checkpoint: `model`, `tokenizer`, `identity`, `layers`. At most one is open at a time.

    Tests that ask for it run once per model of the run. Leave the model as you found it.
    """
    session = find_session(pytestconfig)
    yield _attempt(session.open_model, _sw_audit_case)
    session.close_model()


@pytest.fixture(scope="session")
def sw_location(_sw_audit_case: Case, pytestconfig: pytest.Config) -> Location:
    """Where the model's super weights are: `outcome`, `super_weights`, `super_activations`, `trace`."""
    location: Location = _attempt(find_session(pytestconfig).locate_model, _sw_audit_case)
    return location


@pytest.fixture(scope="session")
def sw_measurements(_sw_audit_case: Case, pytestconfig: pytest.Config) -> dict[str, Measurement]:
    """Every measurement of the model by the name of its arm, such as `baseline` or `pruned`.

    The model is measured once for all tests and checks of the run, each arm on as much text as its verdicts asked
    for: compare two by `loss.ratio_to`.
    """
    result: ModelResult = _attempt(find_session(pytestconfig).find_result, _sw_audit_case)
    return {measured.arm.name: measured for measured in result.measurements}


@pytest.fixture(scope="session")
def sw_verdicts(_sw_audit_case: Case, pytestconfig: pytest.Config) -> dict[str, Verdict]:
    """Every verdict on the model by the id of its check, such as `prune-collapses`."""
    model: ModelResult | ModelFailure = _attempt(find_session(pytestconfig).find_model, _sw_audit_case)
    return {verdict.check: verdict for verdict in model.verdicts}


def parametrize_models(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the fixtures once per model of the run, or skip it where there is none."""
    marked = read_marker(metafunc.definition)
    if _CASE not in metafunc.fixturenames:
        return
    cases = _find_cases(find_session(metafunc.config))
    chosen = {label: case for label, case in cases.items() if marked[0] is None or case.model in marked[0]}
    reason = f"no model of this run is among {', '.join(marked[0] or ())}" if cases else _NO_MODEL
    parameters = [pytest.param(case, id=label) for label, case in chosen.items()]
    absent = pytest.param(None, id="no-model", marks=pytest.mark.skip(reason=reason))
    metafunc.parametrize(_CASE, parameters or [absent], indirect=True, scope="session")


def read_marker(node: pytest.Item) -> tuple[Collection[str] | None, Collection[str] | None]:
    """Return the models and the checks that a test's markers restrict it to.

    Fails the collection of the test if a marker says what it cannot say.
    """
    restricted: dict[str, Collection[str] | None] = {"model": None, "check": None}
    for marker in node.iter_markers("sw_audit"):
        unknown = [*map(repr, marker.args), *(set(marker.kwargs) - set(restricted))]
        if unknown:
            pytest.fail(
                f"{node.nodeid}: marker sw_audit does not know {', '.join(sorted(unknown))}; "
                "it takes model=... and check=...",
                pytrace=False,
            )
        for name, value in marker.kwargs.items():
            words = [value] if isinstance(value, str) else value
            if not isinstance(words, list | tuple | set) or not all(isinstance(word, str) for word in words):
                pytest.fail(
                    f"{node.nodeid}: marker sw_audit has {name}={value!r}; give an id or a list of ids",
                    pytrace=False,
                )
            known = restricted[name]
            restricted[name] = list(words) if known is None else [word for word in words if word in known]
    return restricted["model"], restricted["check"]


def announce_tests(session: AuditSession, item: pytest.Item) -> None:
    """Note what a test will read, so that the one measuring pass of its model serves it too."""
    used = set(getattr(item, "fixturenames", ()))
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    case = parameters.get(_CASE)
    if case is None:
        return
    if used & _MEASURED:
        session.need(case, read_marker(item)[1] or session.assignments[case.key].checks[case.model])
    if "sw_model" in used:
        session.kept_open.add(case)


def _find_cases(session: AuditSession) -> dict[str, Case]:
    """Return the models by label; those of `[tool.sw_audit]` count where nothing else is asked for."""
    _attempt(session.offer_tool_models)
    return session.label_cases()


def _attempt(act: Any, *arguments: Any) -> Any:
    """Call a method of the session; input that cannot be used is told in one line."""
    from sw_audit.errors import AuditError

    try:
        return act(*arguments)
    except AuditError as error:
        pytest.fail(" ".join(str(error).split()), pytrace=False)
