"""The objectives' equations, term by term, in plain Python floats: what the fast ones are held to.

No tensors and no tricks. Where an equation says that something carries no gradient, it is computed
from ``at`` instead of ``case``: with ``at`` held fixed, numeric differences over ``case`` give the
gradient that is meant.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

Vector = list[float]


@dataclass
class Case:
    """One step of a single process: unit vectors, text ids, bank, teacher."""

    cells: list[Vector]
    texts: list[Vector]
    tau: float
    pairs: list[int]
    groups: list[int]
    bank_cells: list[Vector] = field(default_factory=list)
    bank_texts: list[Vector] = field(default_factory=list)
    bank_pairs: list[int] = field(default_factory=list)
    bank_groups: list[int] = field(default_factory=list)
    table: list[Vector] = field(default_factory=list)
    teacher_cells: list[Vector] = field(default_factory=list)
    teacher_texts: list[Vector] = field(default_factory=list)

    def moved(self, what: str, row: int, column: int, by: float) -> Case:
        other = copy.deepcopy(self)
        getattr(other, what)[row][column] += by
        return other


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def log_softmax(query: Vector, keys: list[Vector], tau: float) -> list[float]:
    logits = [dot(query, key) / tau for key in keys]
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits))
    return [x - top - total for x in logits]


def both(case: Case, i: int, tau: float | None = None) -> tuple[list[float], list[float]]:
    """log S_ct[i, :] and log S_tc[i, :], over the batch and then the bank."""
    tau = case.tau if tau is None else tau
    return (
        log_softmax(case.cells[i], case.texts + case.bank_texts, tau),
        log_softmax(case.texts[i], case.cells + case.bank_cells, tau),
    )


def infonce(case: Case) -> float:
    n = len(case.cells)
    return sum(-log_s[i] for i in range(n) for log_s in both(case, i)) / (2 * n)


def clean_oracle(case: Case, clean: list[bool]) -> float:
    def keep(values: list, of: list[int]) -> list:
        return [v for v, pair in zip(values, of, strict=True) if clean[pair]]

    kept = copy.deepcopy(case)
    for name in ("cells", "texts"):
        setattr(kept, name, keep(getattr(case, name), case.pairs))
        bank = f"bank_{name}"
        setattr(kept, bank, keep(getattr(case, bank), case.bank_pairs))
    return infonce(kept) if kept.cells else 0.0


def siglip(case: Case, scale: float, bias: float, group_targets: bool) -> float:
    def entry(cell: Vector, text: Vector, match: bool) -> float:
        z = 1 if match else -1
        x = -z * (scale * dot(cell, text) + bias)
        return x if x > 700 else math.log1p(math.exp(x))  # -log sigmoid

    n, loss = len(case.cells), 0.0
    for i in range(n):
        for j in range(n):
            same = case.groups[i] == case.groups[j] if group_targets else i == j
            loss += entry(case.cells[i], case.texts[j], same)
        for j in range(len(case.bank_cells)):
            same = group_targets and case.groups[i] == case.bank_groups[j]
            loss += entry(case.cells[i], case.bank_texts[j], same)
            loss += entry(case.bank_cells[j], case.texts[i], same)
    return loss / n


def gce(case: Case, q: float) -> float:
    n = len(case.cells)
    terms = [(1 - math.exp(log_s[i]) ** q) / q for i in range(n) for log_s in both(case, i)]
    return sum(terms) / (2 * n)


def live_table(case: Case) -> list[Vector]:
    table = copy.deepcopy(case.table)
    for group in set(case.groups):
        rows = [t for t, g in zip(case.texts, case.groups, strict=True) if g == group]
        table[group] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return table


def elr_targets(at: Case, momentum: float, before: dict[int, Vector]) -> dict[int, Vector]:
    """The running targets after the step, of its pairs."""
    out = {}
    for i, pair in enumerate(at.pairs):
        p = [math.exp(x) for x in log_softmax(at.cells[i], live_table(at), at.tau)]
        old = before.get(pair, [0.0] * len(p))
        out[pair] = [momentum * a + (1 - momentum) * b for a, b in zip(old, p, strict=True)]
    return out


def elr(case: Case, at: Case, weight: float, momentum: float, before: dict[int, Vector]) -> float:
    targets, loss = elr_targets(at, momentum, before), 0.0
    for i, (pair, group) in enumerate(zip(case.pairs, case.groups, strict=True)):
        log_p = log_softmax(case.cells[i], live_table(case), case.tau)
        agreement = dot([math.exp(x) for x in log_p], targets[pair])
        loss += -log_p[group] + weight * math.log(1 - min(agreement, 1 - 1e-4))
    return loss / len(case.cells)


def complementary(s: Vector, i: int, omega: float) -> float:
    tangents = [math.tan(x) for x in s]
    return sum(t for j, t in enumerate(tangents) if j != i) / sum(tangents) ** omega


def crcl_labels(
    at: Case, momentum: float, before: dict[int, float], epoch: int
) -> tuple[list[float], dict[int, float]]:
    """The labels that weigh, and those that are kept."""
    labels, kept = [], {}
    for i, pair in enumerate(at.pairs):
        p = sum(math.exp(log_s[i]) for log_s in both(at, i)) / 2
        p = min(1.0, p * at.groups.count(at.groups[i]))
        if epoch == 1 or pair not in before:
            labels.append(1.0)
            kept[pair] = p
            continue
        y = momentum * before[pair] + (1 - momentum) * p
        labels.append(0.0 if y < 0.1 else y)
        kept[pair] = labels[-1]
    return labels, kept


def crcl(
    case: Case, at: Case, weight: float, momentum: float, before: dict[int, float], epoch: int
) -> float:
    labels, loss = crcl_labels(at, momentum, before, epoch)[0], 0.0
    for i, y in enumerate(labels):
        for log_s in both(case, i):
            s = [math.exp(x) for x in log_s]
            loss += y * -log_s[i] + weight * complementary(s, i, 1 - y)
    return loss / len(case.cells)


def momentum_distill(case: Case, alpha: float) -> float:
    n, loss = len(case.cells), 0.0
    teacher = copy.deepcopy(case)
    teacher.cells, teacher.texts = case.teacher_cells, case.teacher_texts
    for i in range(n):
        for log_s, log_t in zip(both(case, i), both(teacher, i), strict=True):
            for j, (student, wise) in enumerate(zip(log_s, log_t, strict=True)):
                target = alpha * math.exp(wise) + (1 - alpha) * (1.0 if i == j else 0.0)
                loss -= target * student / 2
    return loss / n


def rel_sym(at: Case, i: int, sigma: float, how: str) -> float:
    ct, tc = (math.exp(log_s[i]) for log_s in both(at, i, sigma))
    return {"mean": (ct + tc) / 2, "min": min(ct, tc), "product": ct * tc}[how]


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))


def rel_stab(records: dict[int, list[float]], pair: int, n_sigma: float) -> float:
    q = {p: spread(values) for p, values in records.items() if len(values) >= 2}
    if len(q) < 2 or pair not in q:
        return 1.0
    mean = sum(q.values()) / len(q)
    std = math.sqrt(sum((x - mean) ** 2 for x in q.values()) / (len(q) - 1))
    if std <= 1e-6 * mean:
        return 1.0
    z = (q[pair] - mean) / std
    return math.exp(-(z**2) / 2) if z > n_sigma else 1.0


def cra_paper(
    case: Case,
    at: Case,
    config,
    *,
    prior: list[float],
    records: dict[int, list[float]],
    epoch: int,
    progress: float,
) -> float:
    """docs/method.md, section 1. ``records``: Rel_sym of each pair before this step."""
    n = len(case.cells)
    loss, weights, values = [], [], []
    gamma = config.gamma_start + (config.gamma_end - config.gamma_start) * (
        progress**config.gamma_power
    )
    for i, pair in enumerate(case.pairs):
        ct, tc = both(case, i)
        own = ct[i] + tc[i]
        r = prior[pair] if config.reliability_prior else 1.0
        if config.cca:
            v = 1.0
            if epoch >= config.record_from_epoch:
                v = rel_sym(at, i, config.sigma, config.rel_sym)
                if epoch >= config.stability_from_epoch:
                    v *= rel_stab(records, pair, config.n_sigma)
            negative = sum(
                complementary([math.exp(x) for x in log_s], i, config.omega) for log_s in (ct, tc)
            )
            loss.append(-r * v * own + config.negative_weight * negative)
        else:
            loss.append(-r * own / 2)
        ct, tc = both(at, i)
        difficulty = -(ct[i] + tc[i]) / 2
        if progress < config.hard_after:
            weights.append(min(0.0, gamma - difficulty))  # its logarithm
        else:
            weights.append(math.log(min(2.0, 0.5 + difficulty / gamma)))
    if config.psw:
        top = max(weights)  # cancels in the division by the mean
        values = [math.exp(w - top) for w in weights]
        mean = sum(values) / n
        loss = [x * v / mean for x, v in zip(loss, values, strict=True)]
    return sum(loss) / n


def record(at: Case, config, records: dict[int, list[float]], epoch: int) -> dict[int, list[float]]:
    """The records after a step."""
    after = {pair: list(values) for pair, values in records.items()}
    if config.cca and epoch >= config.record_from_epoch:
        for i, pair in enumerate(at.pairs):
            after.setdefault(pair, []).append(rel_sym(at, i, config.sigma, config.rel_sym))
    return after
