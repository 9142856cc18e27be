"""Programs that serve models: each scores given tokens and continues prompts, whatever it computes with."""
