"""The tables of a comparison, in Markdown.

Invariants
- What was not measured is a dash.
- A figure of a run in which requests failed, or none was served, has a number, and the list at the end says
  what failed. It is never marked as the best.
- A ceiling is called one wherever it stands among the peers, and never marked as the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from bench.compare import limits, ratios
from bench.compare.ratios import Cells, Column
from bench.compare.results import Results, Sample
from bench.peers import PEERS

NONE = "-"
BEST = "▲"

Figure = Callable[[list[Sample]], float]


class Notes:
    """Numbers the cells with failures, and lists them."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, Column, int], str] = {}

    def mark(self, peer: str, column: Column, samples: list[Sample]) -> str:
        """Return the number to be put at a figure; empty if requests were served and none failed."""
        if ratios.clean(samples):
            return ""
        pool, kinds = samples[0].pool, ratios.failed(samples)
        served = sum(each.served for each in samples)
        told = ", ".join(f"{kind} {number:,}" for kind, number in kinds.items())
        self._lines.setdefault(
            (peer, column, pool),
            f"{peer}, {ratios.title_of(column)}, pool {pool}: {sum(kinds.values()):,} failed"
            + (f" ({told})" if told else "")
            + f", {served:,} served",
        )
        number = list(self._lines).index((peer, column, pool)) + 1
        return f" <sup>{number}</sup>"

    def __str__(self) -> str:
        return "\n".join(f"{number}. {line}" for number, line in enumerate(self._lines.values(), 1))


def grid(titles: list[str], rows: Iterable[list[str]], left: int = 1) -> str:
    """Return a table whose first columns, `left` of them, are texts and the others numbers."""
    lines = [titles, ["---"] * left + ["--:"] * (len(titles) - left), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(value: float) -> str:
    """Return a number with three digits that count, or all before the point."""
    if value != value:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def name_of(peer: str) -> str:
    return f"**{peer}**" if ratios.is_ours(peer) else label_of(peer)


def label_of(peer: str) -> str:
    return f"{peer} (ceiling)" if ratios.is_ceiling(peer) else peer


def by_peer(
    found: Cells,
    where: list[Column],
    of: Figure,
    notes: Notes,
    *,
    best: Callable[[Iterable[float]], float] | None = None,
    shown: Callable[[float], str] = figure,
) -> str:
    """Return a row for each peer and a column for each of `where`; `best` is max, min or nothing."""
    usually = ratios.usual(found)
    names = ratios.peers(peer for peer, _ in found)
    marked: dict[Column, float] = {}
    for column in where:
        clean = [
            of(each)
            for name in names
            if not ratios.is_ceiling(name)
            and (each := found.get((name, column)))
            and ratios.clean(each)
        ]
        if best and clean:
            marked[column] = best(clean)

    def cell(name: str, column: Column) -> str:
        samples = found.get((name, column))
        if not samples:
            return NONE
        value = of(samples)
        note = notes.mark(name, column, samples)
        text = shown(value)
        if ratios.is_ours(name):
            text = f"**{text}**"
        if not note and not ratios.is_ceiling(name) and value == marked.get(column):
            text = f"{BEST}{text}"
        return text + note

    return grid(
        ["", *(ratios.title_of(column, usually) for column in where)],
        [[name_of(name), *(cell(name, column) for column in where)] for name in names],
    )


# --- what of a sample is shown ------------------------------------------------------------------


def median_of(name: str) -> Callable[[list[Sample]], float]:
    """Return what takes the median of a field of samples."""
    return lambda samples: median(getattr(each, name) for each in samples)


rate, p50, p99 = median_of("rate"), median_of("p50"), median_of("p99")
cpu, database_cpu = median_of("cpu"), median_of("database_cpu")
statements = median_of("statements")


def memory(samples: list[Sample]) -> float:
    """In MiB."""
    return median(each.memory for each in samples) / 2**20


# --- other tables -------------------------------------------------------------------------------


def ratio_table(found: Cells, ours: str, where: list[Column], spread: bool = True) -> str:
    """Return what ours is of each peer, in requests a second."""
    usually = ratios.usual(found)

    def cell(peer: str, column: Column) -> str:
        value = ratios.ratio(found.get((ours, column)), found.get((peer, column)))
        if value is None:
            return NONE
        return str(value) if spread else f"{value.median:.2f}"

    names = [name for name in ratios.peers(peer for peer, _ in found) if name != ours]
    return grid(
        [f"{ours} against", *(ratios.title_of(column, usually) for column in where)],
        [[label_of(name), *(cell(name, column) for column in where)] for name in names],
    )


def sweep_table(results: Results, notes: Notes) -> str:
    """Return the requests a second by pool size; the sizes that were taken are in bold."""
    groups: dict[tuple[str, int], dict[Column, list[Sample]]] = {}
    for each in results.sweep:
        column = Column(each.workload, each.connections)
        groups.setdefault((each.peer, each.pool), {}).setdefault(column, []).append(each)
    where = sorted({column for row in groups.values() for column in row}, key=lambda key: key.order)
    order = ratios.peers(peer for peer, _ in groups)
    taken = {
        (each.peer, each.pool, Column(each.workload, each.connections)) for each in results.samples
    }

    def cell(peer: str, pool: int, column: Column) -> str:
        samples = groups[peer, pool].get(column)
        if not samples:
            return NONE
        text = figure(rate(samples))
        if (peer, pool, column) in taken:
            text = f"**{text}**"
        return text + notes.mark(peer, column, samples)

    return grid(
        ["", "pool", "of", *(ratios.title_of(column) for column in where)],
        [
            [peer, str(pool), _pool_of(results, peer), *(cell(peer, pool, each) for each in where)]
            for peer, pool in sorted(groups, key=lambda key: (order.index(key[0]), key[1]))
        ],
        left=3,
    )


def served_table(results: Results) -> str:
    """Return how many of the clients were served; of several rounds the worst."""
    worst = {}
    for each in results.fairness:
        key = each.peer, Column(each.workload, each.connections)
        if key not in worst or each.fairly < worst[key].fairly:
            worst[key] = each
    order = ratios.peers(peer for peer, _ in worst)
    rows = []
    for peer, column in sorted(worst, key=lambda key: (key[1].order, order.index(key[0]))):
        one = worst[peer, column]
        rows.append(
            [
                ratios.title_of(column),
                name_of(peer),
                f"{one.served:,} ({one.served / one.connections:.1%})",
                f"{one.fairly:,} ({one.fairly / one.connections:.1%})",
                f"{one.least:,}",
                figure(one.mean),
                f"{figure(one.p50)} / {figure(one.p99)}",
                f"{one.failed:,}",
                figure(one.memory / 2**20),
            ]
        )
    titles = [
        "",
        "",
        "clients served",
        "at least half the mean",
        "least",
        "mean",
        "p50 / p99, ms",
        "failed",
        "MiB",
    ]
    return grid(titles, rows, left=2)


def limits_table(results: Results) -> str:
    """Return the limits with their verdicts, and what is there to compare them with."""
    rows: list[limits.Judged | limits.Shown] = [*limits.judge(results), *limits.compare(results)]
    return grid(
        ["limit", "", "found"],
        [[each.limit, each.verdict, each.found or NONE] for each in rows],
        left=3,
    )


def peers_table(results: Results) -> str:
    """Return what was compared: the versions, and the pool sizes that were taken."""
    rows = []
    for name in ratios.peers(results.peers or results.chosen):
        facts = results.peers.get(name, {})
        title = facts.get("title") or (PEERS[name].title if name in PEERS else "")
        packages = facts.get("packages", {})
        if isinstance(packages, dict):
            packages = [f"{package} {number}" for package, number in packages.items()]
        pools = ", ".join(
            f"{group}: {pool}" for group, pool in results.chosen.get(name, {}).items() if pool
        )
        rows.append([name_of(name), title, ", ".join(packages), pools or NONE])
    return grid(["", "what", "versions", "pool"], rows, left=4)


def about_list(about: dict[str, Any]) -> str:
    """Return what was measured on, and how; not what the other tables show."""
    shown = {name: value for name, value in about.items() if name != "packages"}
    if isinstance(shown.get("options"), dict):
        shown["options"] = {
            name: value
            for name, value in shown["options"].items()
            # 0 is shown: what was measured in no round at all is worth to know.
            if name not in ("peers", "workloads", "out")
            and value is not None
            and value is not False
        }
    return "\n".join(f"- {name.replace('_', ' ')}: {_told(each)}" for name, each in shown.items())


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_told(each)}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def verified_list(results: Results) -> str:
    """Return the rules that a peer does not keep, and the peers that were left out."""
    lines = [f"- {name} was left out: {why}" for name, why in results.left_out.items()]
    for name, rules in results.verified.items():
        for each in rules:
            problems = each.get("problems") or []
            if problems:
                verdict = "a warning, " if each.get("verdict") == "WARN" else ""
                told = "; ".join(map(str, problems))
                lines.append(f"- {name}: {verdict}{each.get('rule', '')}: {told}")
    return "\n".join(lines) or "Every peer keeps every rule, and none was left out."


def _pool_of(results: Results, peer: str) -> str:
    known = results.peers.get(peer, {}).get("pool_of")
    return str(known or (PEERS[peer].pool_of if peer in PEERS else NONE))
