"""How often verdicts are wrong, counted on streams of windows that are drawn from real ones."""
