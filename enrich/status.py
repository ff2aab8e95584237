"""How far a job is, what it has cost, and what it will."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from okrcell.artifacts import current_manifest
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.job import KIND, read_plan
from okrcell.enrich.ledger import JUDGE, REPAIR, Ledger, open_ledger

__all__ = ["status"]


def status(job: Path) -> dict[str, Any]:
    """Return how far a job is: requests by state, failures by kind, calls, tokens, cost, rate and time left.

    Returns
    -------
    dict
        ``spent_usd`` is what is known to be billed, ``uncertain_usd`` the most that calls without a reply, and
        answers without token counts, may have cost beside it, ``projected_usd`` what the job should cost in the end (None without prices).
        ``answers_per_second`` is that of the last two minutes. A finished job says what became of
        its descriptions and sentences.
    """
    job = Path(job)
    config, inputs = read_plan(job)
    with open_ledger(job, read_only=True) as ledger:
        profiles, totals = len(ledger.profiles()), ledger.totals()
        requests = ledger.states()
        left = requests["planned"] + requests["sent"]
        pace = ledger.pace()
        found = {
            "job": str(job),
            "writer": config.writer,
            "finished": False,
            "profiles": profiles,
            "requests": requests,
            "done": f"{_share(requests):.1%}",
            "failures": ledger.failures(),
            "repairs": _asked(ledger, REPAIR),
            "judgements": _asked(ledger, JUDGE),
            **{k: v for k, v in asdict(totals).items() if not k.endswith("_usd")},
            "spent_usd": totals.cost_usd,
            "uncertain_usd": totals.uncertain_usd,
            "projected_usd": _projected(ledger, config, left),
            "max_cost_usd": config.max_cost_usd,
            "answers_per_second": None if pace is None else round(pace, 2),
            "seconds_left": None if pace is None else round(left / pace),
        }
    manifest = current_manifest(job, KIND, config=config.content(), inputs=inputs)
    if manifest is not None:
        names = ("descriptions", "sentences", "sentence_states", "leak_control")
        found |= {"finished": True} | {name: manifest.facts[name] for name in names}
    return found


def _share(requests: dict[str, int]) -> float:
    total = sum(requests.values())
    return (requests["answered"] + requests["failed"]) / total if total else 1.0


def _asked(ledger: Ledger, kind: str) -> dict[str, int]:
    return {state: n for state, n in ledger.states(kind).items() if n}


def _projected(ledger: Ledger, config: EnrichConfig, left: int) -> float | None:
    """Return what was spent plus what is left at the mean cost of an answer so far."""
    totals, mean = ledger.totals(), ledger.mean_cost()
    if totals.cost_usd is None:
        return None
    if not left:
        return totals.cost_usd
    return None if mean is None else round(totals.cost_usd + left * mean, 6)
