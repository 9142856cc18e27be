"""The embedded specimen: a small model with a true super weight, its control, its corpus, their recipe."""

from sw_audit.specimen.language import STOP_WORDS
from sw_audit.specimen.shipped import choices_path, control_path, corpus_path, specimen_path, write_specimen

__all__ = ["STOP_WORDS", "choices_path", "control_path", "corpus_path", "specimen_path", "write_specimen"]
