"""Whether a descendant is set up as its parent is: what goes in, what is computed, and when it ends."""

from __future__ import annotations

from sw_audit.checks.context import StaticContext
from sw_audit.checks.limits import Limits
from sw_audit.checks.registry import Need, check
from sw_audit.record.files import ChangedSetting, ComparedSettings
from sw_audit.record.verdict import Finding, Paste, Status, Verdict

_AGAIN = "Run the audit again with this check selected."
_DECIDES = {
    "computation": "what is computed",
    "stopping": "when a text ends",
    "sampling": "how tokens are drawn",
    "input": "what the model is given",
}


class SettingsAsParentLimits(Limits):
    """Limits of `settings-as-parent`; what may differ is named in `[descent] may_differ`."""


@check(
    id="settings-as-parent",
    order=162,
    title="It is set up as its parent is",
    meaning="Sound weights under another end-of-text token, template or activation function are another model.",
    quantity="settings that may not differ",
    fails="one that decides what goes in, what is computed, how tokens are drawn or when a text ends is not the "
    "parent's, and `[descent] may_differ` does not name it; others are told",
    limits=SettingsAsParentLimits,
    level="gate",
    unit="count",
    side="at most",
    scope="descendant",
    needs=frozenset({Need.SETTINGS}),
    static=True,
    reads_files=True,
)
def settings_as_parent(context: StaticContext) -> Verdict:
    """Rule of `settings-as-parent`.

    Settings are compared as they take effect: what a file leaves out is what the model's class has by default, so
    that saving again changes nothing. Counting is exact, so there is no interval.
    """
    files = context.result.files
    if files is None or files.settings is None:
        return context.conclude(Status.INCONCLUSIVE, "Nobody compared its settings.", remedy=_AGAIN)
    settings, may_differ = files.settings, context.policy.descent.may_differ
    serious = settings.list_serious(may_differ)
    idle = [pattern for pattern in may_differ if not any(one.is_named([pattern]) for one in settings.changed)]
    return context.conclude(
        Status.FAIL if serious else Status.PASS,
        " ".join([_describe(settings, serious, len(may_differ) - len(idle)), *settings.notes, *_tell_idle(idle)]),
        remedy="Copy the parent's files over those named, or name in the policy what is meant to differ.",
        observed=float(len(serious)),
        limit=0,
        findings=[_find(changed, serious, may_differ) for changed in settings.changed],
        paste=[_paste([*may_differ, *dict.fromkeys(changed.key for changed in serious)])] if serious else [],
    )


def _describe(settings: ComparedSettings, serious: tuple[ChangedSetting, ...], allowed: int) -> str:
    if serious:
        others = f" (and {len(serious) - 1} more)" if len(serious) > 1 else ""
        return f"{serious[0].key} decides {_DECIDES[serious[0].effect]}: {_compare(serious[0])}{others}."
    conversations = f", {settings.conversations} conversations" if settings.conversations else ""
    told = f"; {len(settings.changed)} differ" if settings.changed else ""
    named = ", those that count by the policy's leave" if allowed else ", none that counts" if told else ""
    return f"{settings.compared} settings and {settings.texts} texts{conversations} were compared{told}{named}."


def _tell_idle(idle: list[str]) -> list[str]:
    return [f"Nothing that differs is called {pattern!r}, which may_differ names." for pattern in idle]


def _compare(changed: ChangedSetting) -> str:
    here = "not set here" if changed.value is None else f"{changed.value} here"
    there = "not set in the parent" if changed.parent is None else f"{changed.parent} in the parent"
    return f"{here}, {there}" + (f": {changed.note}" if changed.note else "")


def _find(changed: ChangedSetting, serious: tuple[ChangedSetting, ...], may_differ: tuple[str, ...]) -> Finding:
    status = Status.FAIL if changed in serious else Status.SKIPPED
    allowed = changed.serious and changed.is_named(may_differ)
    leave = "; the policy lets it differ" if allowed else ""
    return Finding(label=changed.key, status=status, because=f"{_compare(changed)}{leave}.")


def _paste(keys: list[str]) -> Paste:
    quoted = ", ".join(f'"{key}"' for key in keys)
    return Paste(where="the policy, if it is meant", text=f"[descent]\nmay_differ = [{quoted}]")
