"""From answers to checked claims: drafts are verified, judged, repaired once, and verified again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from okrcell.enrich.asking import Asker
from okrcell.enrich.claims import SUPPORTED, Claim
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.draft import Draft, Judgements, Repair, parse_answer
from okrcell.enrich.ledger import JUDGE, REPAIR, Entry, Ledger
from okrcell.enrich.prompts import PROMPT_VERSION
from okrcell.enrich.support import Support, SupportScorer, open_scorer
from okrcell.enrich.verify import needs_scoring, verify
from okrcell.enrich.writer import schema_of

if TYPE_CHECKING:
    from okrcell.corpus.embedder import Embedder

__all__ = ["Checked", "check"]

_PIECE = 500  # drafts verified at a time, so that memory stays flat
_SCORES = {"supported": 1.0, "partly": 0.4, "unsupported": 0.1, "contradicted": 0.0}


@dataclass(frozen=True)
class Checked:
    """A request's outcome before it is judged as a whole.

    Attributes
    ----------
    claims
        All sentences in order; one that stands in for a failing sentence follows it. Empty where there
        is no usable answer.
    failure
        Kind and message where there is none; "" otherwise.
    """

    claims: tuple[Claim, ...]
    failure: str


def check(asker: Asker, config: EnrichConfig, embedder: Embedder) -> dict[str, Checked] | None:
    """Check every written request of the job; None while answers that it takes are missing.

    Repairs (and a judge's answers) are asked for on the way.
    """
    ledger, keys = asker.ledger, asker.ledger.request_keys()
    checker = _Checker(asker, config, embedder)
    drafts = {key: draft for key in keys if (draft := _answer(ledger.last(key), Draft)) is not None}
    claims = checker.verify(ledger, drafts)
    if claims is None:
        return None
    repaired: dict[str, tuple[Claim, ...]] | None = claims
    if config.repair and not config.is_extractive:
        repaired = checker.repair(ledger, drafts, claims)
    if repaired is None:
        return None
    found = {}
    for key in keys:
        if key in repaired:
            found[key] = Checked(repaired[key], "")
        else:
            entry = ledger.last(key)
            kind = (entry.error_kind if entry else None) or "failed"
            found[key] = Checked((), f"{kind}: {entry.error if entry else 'never asked'}")
    return found


def _answer(entry: Entry | None, form: type[Any]) -> Any:
    """Return the parsed answer of a settled unit, None where it has no usable one."""
    if entry is None or entry.state != "answered" or entry.answer is None:
        return None
    return parse_answer(form, entry.answer, f"unit {entry.key[:12]}")


class _Checker:
    def __init__(self, asker: Asker, config: EnrichConfig, embedder: Embedder) -> None:
        self.asker, self.config = asker, config
        self.scorer = None if config.judge else open_scorer(config, embedder)

    def verify(
        self, ledger: Ledger, drafts: Mapping[str, Draft], stage: str = "draft"
    ) -> dict[str, tuple[Claim, ...]] | None:
        """Return the claims of drafts by request; None while a judge has not answered."""
        scorer = self.scorer or self._judge(ledger, drafts, stage)
        if scorer is None:
            return None
        found: dict[str, tuple[Claim, ...]] = {}
        keys = sorted(drafts)
        for at in range(0, len(keys), _PIECE):
            piece = keys[at : at + _PIECE]
            checked = verify(
                [(drafts[key], ledger.request(key)) for key in piece],
                scorer,
                self.config.support_threshold,
            )
            for key, claims in zip(piece, checked, strict=True):
                found[key] = tuple(
                    claim if claim.verdict == SUPPORTED else replace(claim, state="dropped")
                    for claim in claims
                )
        return found

    def _judge(
        self, ledger: Ledger, drafts: Mapping[str, Draft], stage: str
    ) -> SupportScorer | None:
        """Ask the judge about every sentence whose quotes stand; return its answers as a scorer."""
        identity = [self.config.judge, PROMPT_VERSION, schema_of(JUDGE)]
        asked: dict[str, list[tuple[int, str, tuple[str, ...]]]] = {}
        for key in sorted(drafts):
            numbers = needs_scoring(drafts[key], ledger.request(key))
            sentences = drafts[key].sentences
            pairs = [(n, sentences[n].text, sentences[n].quotes) for n in numbers]
            if pairs:
                body = {"stage": stage, "pairs": pairs}
                asked[ledger.add(JUDGE, key, body, identity)] = pairs
        if not self.asker.ask(JUDGE, asked):
            return None
        scores: dict[tuple[str, tuple[str, ...]], float] = {}
        for base, pairs in asked.items():
            answer = _answer(ledger.last(base), Judgements)
            verdicts = {j.index: j.verdict for j in answer.judgements} if answer else {}
            for number, text, quotes in pairs:
                scores[text, tuple(quotes)] = _SCORES.get(verdicts.get(number, ""), 0.0)
        return _Judged(self.config.support, scores)

    def repair(
        self,
        ledger: Ledger,
        drafts: Mapping[str, Draft],
        claims: Mapping[str, tuple[Claim, ...]],
    ) -> dict[str, tuple[Claim, ...]] | None:
        """Ask once about failing sentences, verify what comes, and put it beside what failed."""
        bases = {}
        for key in sorted(claims):
            failing = _failing(claims[key])
            entry = ledger.last(key)
            if failing and entry is not None:
                body = {"answer_of": entry.key, "failing": failing}
                identity = [self.config.writer, PROMPT_VERSION, schema_of(REPAIR)]
                bases[key] = ledger.add(REPAIR, key, body, identity)
        if not self.asker.ask(REPAIR, bases.values()):
            return None
        repairs: dict[str, dict[int, int]] = {}
        second: dict[str, Draft] = {}
        for key, base in bases.items():
            answer = _answer(ledger.last(base), Repair)
            numbers = {n for n, claim in enumerate(claims[key]) if claim.state == "dropped"}
            useful = [item for item in answer.repairs if item.index in numbers] if answer else []
            if useful:
                repairs[key] = {item.index: at for at, item in enumerate(useful)}
                second[key] = Draft(sentences=tuple(item.sentence for item in useful))
        checked = self.verify(ledger, second, "repair")
        if checked is None:
            return None
        return {
            key: _joined(found, repairs.get(key, {}), checked.get(key, ()))
            for key, found in claims.items()
        }


def _failing(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "text": claim.sentence.text,
            "verdict": claim.verdict,
            "why": next((c.detail for c in claim.checks if c.outcome == "failed"), ""),
        }
        for index, claim in enumerate(claims)
        if claim.state == "dropped"
    ]


def _joined(
    claims: Sequence[Claim], places: Mapping[int, int], second: Sequence[Claim]
) -> tuple[Claim, ...]:
    """Return the claims of a draft with their replacements behind them."""
    joined: list[Claim] = []
    for number, claim in enumerate(claims):
        if number not in places:
            joined.append(claim)
            continue
        instead = replace(second[places[number]], origin="repair")
        holds = instead.verdict == SUPPORTED
        joined += [replace(claim, state="repaired") if holds else claim, instead]
    return tuple(joined)


class _Judged:
    """A judge's answers as scores; what it did not answer is not supported."""

    def __init__(self, name: str, scores: Mapping[tuple[str, tuple[str, ...]], float]) -> None:
        self.name, self._scores = name, scores

    def score(self, pairs: Sequence[Support]) -> list[float]:
        return [self._scores.get((pair.sentence, tuple(pair.quotes)), 0.0) for pair in pairs]
