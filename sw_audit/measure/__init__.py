"""Measures a model in many arms at once: loss, agreement, stop words, multiple choice."""
