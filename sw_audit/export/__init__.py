"""Writes a quantized checkpoint that opens without this package."""
