"""Profiles become cited, checked descriptions."""
