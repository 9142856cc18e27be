"""The vocabulary of sw-audit: frozen values without torch, files or clocks."""
