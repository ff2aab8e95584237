"""Six tasks, with baselines and intervals, become one report."""
