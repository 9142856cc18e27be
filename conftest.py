"""Loads the plugin under test, whether or not the package is installed."""

from __future__ import annotations

from importlib.metadata import entry_points

# Naming a plugin that its entry point has loaded already ends the run ("already registered").
_installed = any(point.name == "sw_audit" for point in entry_points(group="pytest11"))

pytest_plugins = ["pytester"] if _installed else ["pytester", "pytest_sw_audit.plugin"]
