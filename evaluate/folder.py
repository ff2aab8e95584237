"""Names inside an evaluation folder."""

from __future__ import annotations

__all__ = ["COMPARISONS", "DETAILS", "KIND", "RESULTS", "TIMINGS", "UNITS"]

KIND = "evaluation"
RESULTS, COMPARISONS = "results.parquet", "comparisons.parquet"
DETAILS, TIMINGS = "details.json", "timings.json"
UNITS = "units"
