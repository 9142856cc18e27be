"""Finds super weights with one data-free forward pass, and what to compare them with."""
