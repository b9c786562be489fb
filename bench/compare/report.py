"""The report of a comparison: its tables and plots, and the generated parts of the page about it.

    python -m bench.compare.report bench/report [--docs docs/benchmarks.md]
    python -m bench.compare.report bench/report --compare OTHER

The first writes the report again from its ``results.json``; the second writes nothing, and tells how far the
ratios of two runs are apart.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.compare import ratios, tables
from bench.compare.ratios import Column
from bench.compare.results import Results

#: the columns of the short tables
HEADLINE = ("json", "db", "queries-20", "fortunes", "updates-20", "mixed", "page")
HEADLINE_SLEEP = 256

#: the plots, in the order of the page, and their descriptions for who cannot see them
PLOTS = {
    "throughput": "Requests a second of each peer, as bars, for eight workloads",
    "latency": "Lines of p50 and p99 on the workload db, from 16 to 512 connections",
    "memory": "Lines of the memory of the server's processes against the number of connections",
    "served": "Bars of the clients that were served, and of those that were served fairly",
    "split": "Stacked bars of the CPU time of a request: HTTP, bridge, ORM, driver",
    "growth": "Cost against size, on logarithmic axes, each with its fitted line",
}


def write(results: Results, out: Path) -> None:
    """Write ``table.md``, and with matplotlib the plots, into the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text(results), encoding="utf-8")
    try:
        from bench.compare import plots
    except ImportError as exc:
        print(f"no plots: {exc}", file=sys.stderr)
        return
    plots.write(results, out)


def text(results: Results) -> str:
    """Return all tables."""
    found = ratios.cells(results.samples)
    usually = ratios.usual(found)
    where = ratios.columns(found, usually)
    by_connections = _db(found)
    weighed = [each for each in where if each.workload in ("json", "page", ratios.SLEEP)]
    weighed = sorted({*weighed, *by_connections}, key=lambda column: column.order)
    notes = tables.Notes()
    parts = [
        ("Limits", tables.limits_table(results)),
        (
            f"Requests a second, {usually} connections unless named",
            f"{tables.BEST} is the best of a column; a ceiling is no peer.\n\n"
            + tables.by_peer(found, where, tables.rate, notes, best=max),
        ),
        (
            "Requests a second on db, by connections",
            tables.by_peer(found, by_connections, tables.rate, notes, best=max),
        ),
        *(
            (
                f"Requests a second of {ours}, as a part of each peer's",
                "The median of the rounds' ratios, the lowest and the highest.\n\n"
                + tables.ratio_table(found, ours, where),
            )
            for ours in ratios.peers(peer for peer, _ in found)
            if ratios.is_ours(ours)
        ),
        ("Latency p50, ms", tables.by_peer(found, where, tables.p50, notes)),
        ("Latency p99, ms", tables.by_peer(found, where, tables.p99, notes)),
        ("Latency p50 on db, ms", tables.by_peer(found, by_connections, tables.p50, notes)),
        ("Latency p99 on db, ms", tables.by_peer(found, by_connections, tables.p99, notes)),
        (
            "CPU µs a request, all processes of the server",
            tables.by_peer(found, where, tables.cpu, notes, best=min),
        ),
        (
            "CPU µs a request, the database server",
            tables.by_peer(found, where, tables.database_cpu, notes),
        ),
        (
            "Statements a request, counted by the database server",
            tables.by_peer(found, where, tables.statements, notes, shown="{:.2f}".format),
        ),
        (
            "Memory, MiB, all processes of the server",
            tables.by_peer(found, weighed, tables.memory, notes, best=min),
        ),
        ("Clients served, the worst round", tables.served_table(results)),
        (
            "Pool sizes, requests a second",
            "In bold what was taken for the other tables.\n\n" + tables.sweep_table(results, notes),
        ),
    ]
    parts += [
        ("Failures", str(notes) or "No request failed."),
        ("Verification", tables.verified_list(results)),
        ("Peers", tables.peers_table(results)),
        ("Machine", tables.about_list(results.about)),
    ]
    head = (
        "# The comparison\n\nWritten by `python -m bench`; docs/benchmarks.md says what it means."
    )
    return "\n\n".join([head, *(f"## {title}\n\n{body}" for title, body in parts)]) + "\n"


def _db(found: ratios.Cells) -> list[Column]:
    columns = {column for _, column in found if column.workload == "db"}
    return sorted(columns, key=lambda column: column.order)


# --- the page -----------------------------------------------------------------------------------


def write_page(results: Results, out: Path, page: Path) -> None:
    """Fill the generated parts of a page, which stand between two comments each.

    Raise ValueError if the page has a part that is unknown, or lacks one.
    """
    parts = _parts(results, out, page)
    old = page.read_text(encoding="utf-8")
    pattern = r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)"
    names = [match[2] for match in re.finditer(pattern, old, re.DOTALL)]
    if sorted(names) != sorted(parts):
        wrong = sorted(set(names) ^ set(parts)) or names
        raise ValueError(f"{page}: generated parts missing, unknown or twice: {', '.join(wrong)}")

    def filled(match: re.Match[str]) -> str:
        body = parts[match[2]]
        return f"{match[1]}\n{body}\n\n{match[3]}" if body else f"{match[1]}{match[3]}"

    page.write_text(re.sub(pattern, filled, old, flags=re.DOTALL), encoding="utf-8")


def _parts(results: Results, out: Path, page: Path) -> dict[str, str]:
    found = ratios.cells(results.samples)
    usually = ratios.usual(found)
    where = [
        column
        for column in ratios.columns(found, usually)
        if column.workload in HEADLINE or column == Column(ratios.SLEEP, HEADLINE_SLEEP)
    ]
    notes = tables.Notes()
    rates = tables.by_peer(found, where, tables.rate, notes, best=max)
    parts = {
        "rates": rates + (f"\n\nFailures:\n\n{notes}" if str(notes) else ""),
        "ratios": tables.ratio_table(found, ratios.OURS, where, spread=False),
        "limits": tables.limits_table(results),
        "machine": tables.about_list(results.about) + "\n\n" + tables.peers_table(results),
    }
    at = Path(os.path.relpath(out, page.parent)).as_posix()
    for name, description in PLOTS.items():
        drawn = (out / f"{name}.png").exists()
        parts[name] = f"![{description}]({at}/{name}.png)" if drawn else ""
    return parts


# --- two runs -----------------------------------------------------------------------------------


def differences(one: Results, two: Results) -> Iterator[tuple[float, str]]:
    """Yield by how many percent each ratio of ours to a peer differs between two runs, and which."""
    first, second = ratios.cells(one.samples), ratios.cells(two.samples)
    for ours, column in first:
        if not ratios.is_ours(ours):
            continue
        for peer, where in first:
            if where != column or peer == ours:
                continue
            before = ratios.ratio(first[ours, column], first[peer, column])
            after = ratios.ratio(second.get((ours, column)), second.get((peer, column)))
            if before is None or after is None or not before.median:
                continue
            if math.isinf(before.median) or math.isinf(after.median):
                continue
            yield (
                abs(after.median / before.median - 1) * 100,
                f"{ratios.title_of(column)}: {ours} / {peer}:"
                f" {before.median:.3f}, {after.median:.3f}",
            )


def comparison(one: Results, two: Results) -> str:
    """Tell how far two runs are apart, the largest difference first."""
    found = sorted(differences(one, two), reverse=True)
    if not found:
        return "The two runs have no ratio in common."
    near = sum(percent <= 5 for percent, _ in found)
    lines = [f"{percent:6.1f}%  {line}" for percent, line in found]
    lines.append(
        f"{len(found)} ratios; median difference {median(percent for percent, _ in found):.1f}%;"
        f" {near} within 5%"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the report again, or compare it with another; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare.report", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("report", type=Path, help="the directory with results.json")
    parser.add_argument("--compare", type=Path, metavar="DIRECTORY", help="of another run")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="fill the page's generated parts")
    options = parser.parse_args(arguments)
    try:
        results = Results.load(options.report / "results.json")
        if options.compare:
            print(comparison(results, Results.load(options.compare / "results.json")))
            return 0
        write(results, options.report)
        if options.docs:
            write_page(results, options.report, options.docs)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
