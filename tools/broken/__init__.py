"""Checkpoints broken in silence, each with the checks that must catch it, and sound ones that none may fail."""
