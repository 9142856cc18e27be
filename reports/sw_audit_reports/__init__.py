"""Renders the record of an audit for people."""
