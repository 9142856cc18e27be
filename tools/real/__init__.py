"""The real run: a model that others published, audited by itself, and its descendants, gated beside it."""
