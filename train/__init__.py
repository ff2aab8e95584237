"""Cells and descriptions become an aligned cell-text model."""
