"""The real run: a published model, audited by itself, and its sound and broken descendants, gated."""
