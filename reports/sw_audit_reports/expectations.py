"""Which facts of a record speak to which expectation of a law or standard, and what they leave open: one table.

Titles are quoted, what is left out of them is marked: of Regulation (EU) 2024/1689 as published, of NIST AI 100-1
(January 2023) the first sentence of each subcategory, and of ISO/IEC 42001:2023 the names of controls as public
summaries agree on them, for the standard itself is not free to read.
"""

from __future__ import annotations

from dataclasses import dataclass

from sw_audit_reports import annex_facts as facts
from sw_audit_reports.annex_facts import Statement

EU = "Regulation (EU) 2024/1689 (AI Act), Annex IV, technical documentation"
NIST = "NIST AI RMF 1.0"
ISO = "ISO/IEC 42001:2023, Annex A"


@dataclass(frozen=True)
class Expectation:
    """One expectation, and what a record has to say of it.

    Attributes:
        source: The law or standard.
        place: Where it stands there.
        title: Its words, or the beginning of them.
        shown: What speaks to it.
        missing: What is not shown of it.
    """

    source: str
    place: str
    title: str
    shown: tuple[Statement, ...]
    missing: tuple[Statement, ...]


EXPECTATIONS = (
    Expectation(
        EU,
        "2(g), procedures and data",
        "the validation and testing procedures used, including information about the validation and testing data "
        "used and their main characteristics",
        (facts.tell_verdicts, facts.tell_rules, facts.tell_interventions, facts.tell_texts),
        (facts.lack_models, facts.lack_texts, facts.lack_laws, facts.lack_checks, facts.lack_parents),
    ),
    Expectation(
        EU,
        "2(g), metrics",
        "metrics used to measure accuracy, robustness and compliance with other relevant requirements [...], as "
        "well as potentially discriminatory impacts",
        (facts.tell_metrics, facts.tell_intervals),
        (facts.lack_decisions, facts.lack_intervals, facts.lack_harms),
    ),
    Expectation(
        EU,
        "2(g), logs and reports",
        "test logs and all test reports dated and signed by the responsible persons",
        (facts.tell_log, facts.tell_weights, facts.tell_waivers),
        (facts.lack_signature, facts.lack_owners, facts.lack_digests),
    ),
    Expectation(
        NIST,
        "MEASURE 2.1",
        "Test sets, metrics, and details about the tools used during TEVV are documented.",
        (facts.tell_texts, facts.tell_metrics, facts.tell_log),
        (facts.lack_texts, facts.lack_checks),
    ),
    Expectation(
        NIST,
        "MEASURE 2.3",
        "AI system performance or assurance criteria are measured qualitatively or quantitatively and "
        "demonstrated for conditions similar to deployment setting(s).",
        (facts.tell_verdicts, facts.tell_intervals),
        (facts.lack_decisions, facts.lack_use),
    ),
    Expectation(
        NIST,
        "MEASURE 2.5",
        "The AI system to be deployed is demonstrated to be valid and reliable.",
        (facts.tell_parents, facts.tell_gates, facts.tell_weights),
        (facts.lack_models, facts.lack_parents, facts.lack_decisions, facts.lack_texts, facts.lack_digests),
    ),
    Expectation(
        NIST,
        "MEASURE 2.7",
        "AI system security and resilience [...] are evaluated and documented.",
        (facts.tell_files, facts.tell_weights),
        (facts.lack_files, facts.lack_digests, facts.lack_attacks),
    ),
    Expectation(
        NIST,
        "MEASURE 2.13",
        "Effectiveness of the employed TEVV metrics and processes in the MEASURE function are evaluated and "
        "documented.",
        (facts.tell_placebos, facts.tell_intervals),
        (facts.lack_placebos, facts.lack_laws, facts.lack_decisions),
    ),
    Expectation(
        NIST,
        "MANAGE 1.3",
        "Responses to the AI risks deemed high priority, as identified by the MAP function, are developed, "
        "planned, and documented.",
        (facts.tell_remedies, facts.tell_waivers),
        (facts.lack_owners, facts.lack_plan),
    ),
    Expectation(
        NIST,
        "MANAGE 2.4",
        "Mechanisms are in place and applied, and responsibilities are assigned and understood, to supersede, "
        "disengage, or deactivate AI systems that demonstrate performance or outcomes inconsistent with intended "
        "use.",
        (facts.tell_gates, facts.tell_rules),
        (facts.lack_plan,),
    ),
    Expectation(
        NIST,
        "MANAGE 4.1",
        "Post-deployment AI system monitoring plans are implemented [...]",
        (facts.tell_baselines,),
        (facts.lack_baselines, facts.lack_operation),
    ),
    Expectation(
        ISO,
        "A.6.2.4",
        "AI system verification and validation",
        (facts.tell_verdicts, facts.tell_rules, facts.tell_interventions),
        (facts.lack_models, facts.lack_checks, facts.lack_laws, facts.lack_decisions),
    ),
    Expectation(
        ISO,
        "A.6.2.5",
        "AI system deployment",
        (facts.tell_gates, facts.tell_parents, facts.tell_waivers),
        (facts.lack_parents, facts.lack_decisions, facts.lack_use),
    ),
    Expectation(
        ISO,
        "A.6.2.6",
        "AI system operation and monitoring",
        (facts.tell_baselines,),
        (facts.lack_baselines, facts.lack_operation),
    ),
    Expectation(
        ISO,
        "A.6.2.8",
        "AI system recording of event logs",
        (facts.tell_log,),
        (facts.lack_signature, facts.lack_operation),
    ),
    Expectation(
        ISO,
        "A.7.5",
        "Data provenance",
        (facts.tell_texts,),
        (facts.lack_training,),
    ),
)
