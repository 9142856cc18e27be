"""Puts an arm of the experiment in force on a model, and takes it back bit for bit."""
