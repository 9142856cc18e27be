"""Records as evidence: whether one is what was written, and what it stands for."""
