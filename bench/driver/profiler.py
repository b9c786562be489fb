"""Where our driver spends its CPU: samples of the stack, taken while a workload runs.

A timer of the process's CPU time interrupts it; the handler notes the frames. A C function counts as the line
that called it. What uvloop itself does, between two callbacks, counts as the callback that comes next.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from bench.driver.clients import OURS, Looping, open_client
from bench.driver.workloads import WORKLOADS

INTERVAL = 0.001
TOP = 30


class Profile:
    """Counts of where the process was; made in the main thread."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[CodeType] = Counter()
        self.total: Counter[CodeType] = Counter()
        self.lines: Counter[tuple[CodeType, int]] = Counter()

    def __enter__(self) -> Profile:
        self._before = signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self.samples += 1
        self.own[frame.f_code] += 1
        self.lines[frame.f_code, frame.f_lineno] += 1
        seen = set()
        while frame is not None:
            seen.add(frame.f_code)
            frame = frame.f_back
        self.total.update(seen)


def profile(name: str, loop: str, flight: int, params: dict[str, Any], seconds: float) -> str:
    """Run a workload on our driver for about ``seconds``; return tables in Markdown."""
    workload = WORKLOADS[name]
    client = open_client(OURS, loop, params)
    assert isinstance(client, Looping)
    count = max(workload.count // 4, 2 * flight)
    cost = min(client.measure(workload, flight, count) / count for _ in range(3))
    count = max(int(seconds / cost), flight)
    calls = count_calls(client, name, flight)
    with Profile() as found:
        client.measure(workload, flight, count)
    client.close()
    head = (
        f"{workload.title}, {flight} in flight, {loop}: {cost * 1e6:,.1f} µs a query (best of 3, not "
        f"profiled), {found.samples} samples\n"
    )
    return "\n".join([head, *_functions(found, cost * 1e6, calls), "", *_lines(found, cost * 1e6)])


def count_calls(client: Looping, name: str, flight: int) -> dict[CodeType | str, float]:
    """Count the calls of a query, by function: those of C functions by name."""
    queries = 20 * flight if WORKLOADS[name].rows < 100 else flight
    found: Counter[CodeType | str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found[frame.f_code] += 1
        elif event == "c_call":
            found[getattr(argument, "__qualname__", repr(argument))] += 1

    async def run() -> None:
        await client._repeat(WORKLOADS[name], flight, flight)
        sys.setprofile(note)
        try:
            await client._repeat(WORKLOADS[name], flight, queries)
        finally:
            sys.setprofile(None)

    client.runner.run(run())
    return {key: number / queries for key, number in found.items()}


def _functions(found: Profile, cost: float, calls: dict[CodeType | str, float]) -> list[str]:
    rows = [
        "| function | own µs | own % | with callees % | calls a query |",
        "|---|--:|--:|--:|--:|",
    ]
    for code, number in found.own.most_common(TOP):
        part = number / found.samples
        rows.append(
            f"| {_where(code)} {code.co_qualname} | {part * cost:,.2f} | {part:.1%} |"
            f" {found.total[code] / found.samples:.1%} | {calls.get(code, 0):,.2f} |"
        )
    python = sum(number for key, number in calls.items() if isinstance(key, CodeType))
    c_calls = [(key, number) for key, number in calls.items() if isinstance(key, str)]
    c_calls.sort(key=lambda call: call[1], reverse=True)
    rows += ["", f"{python:,.1f} calls of Python functions a query; of C functions:"]
    rows += [", ".join(f"{key} {number:,.1f}" for key, number in c_calls[:TOP])]
    return rows


def _lines(found: Profile, cost: float) -> list[str]:
    rows = ["| line | own µs | own % |", "|---|--:|--:|"]
    for (code, line), number in found.lines.most_common(TOP):
        part = number / found.samples
        rows.append(f"| {_where(code)}:{line} {code.co_name} | {part * cost:,.2f} | {part:.1%} |")
    return rows


def _where(code: CodeType) -> str:
    path = Path(code.co_filename)
    return "/".join(path.parts[-2:])
