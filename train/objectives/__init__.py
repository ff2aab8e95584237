"""Alignment objectives: one module each, chosen by the key ``objective``."""
