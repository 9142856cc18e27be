"""Rounds weight matrices to a recipe's grid and back: tensor in, tensor out."""

from sw_audit.quantize.rtn import round_to_nearest

__all__ = ["round_to_nearest"]
