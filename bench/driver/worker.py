"""The process that is measured: one driver on one loop, pinned to a core of its own.

It reads a question a line from its standard input, as JSON, and answers each with one: what a workload's rows
are, or what a sample of it cost. Between questions it sleeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

from bench.driver.clients import SESSION, Client, open_client
from bench.driver.workloads import WORKLOADS


class WorkerEnded(Exception):
    """A worker ended in the middle of a question; what it had to say is on the standard error."""


class Worker:
    """A worker, seen from the process that asks."""

    def __init__(self, driver: str, loop: str, params: dict[str, Any], core: int | None) -> None:
        self.driver, self.loop = driver, loop
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.driver.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say({"driver": driver, "loop": loop, "params": params, "core": core})

    def session(self) -> list[Any]:
        """Return the answer to `clients.SESSION`."""
        return [tuple(row) for row in self._ask({"do": "session"})]

    def rows(self, workload: str) -> list[str]:
        """Return what a workload's statement returns, each row as text that shows its types."""
        answer: list[str] = self._ask({"do": "rows", "workload": workload})
        return answer

    def measure(self, workload: str, flight: int, count: int) -> float:
        """Return the CPU microseconds of one query, of ``count``."""
        answer: float = self._ask(
            {"do": "measure", "workload": workload, "flight": flight, "count": count}
        )
        return answer

    def stop(self) -> None:
        """Let the process end, or end it if it does not."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _say(self, question: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def _ask(self, question: dict[str, Any]) -> Any:
        self._say(question)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerEnded(f"{self.driver} on {self.loop} ended during {question}")
        return json.loads(line)


def pin(core: int | None) -> None:
    """Keep this process on a core, where the system can."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def show_rows(client: Client, name: str) -> list[str]:
    """Run a workload once; return its rows, or the row that proves what it did, as text."""
    workload = WORKLOADS[name]
    touched, rows = client.ask(workload.sql, workload.args)
    if workload.proof is not None:
        rows = client.ask(workload.proof)[1]
    return [f"{touched} rows", *map(repr, rows)]


def answer(client: Client, question: dict[str, Any]) -> Any:
    if question["do"] == "session":
        return client.ask(SESSION)[1]
    if question["do"] == "rows":
        return show_rows(client, question["workload"])
    count = question["count"]
    used = client.measure(WORKLOADS[question["workload"]], question["flight"], count)
    return used * 1e6 / count


def main() -> None:
    setting = json.loads(sys.stdin.readline())
    pin(setting["core"])
    client = open_client(setting["driver"], setting["loop"], setting["params"])
    for line in sys.stdin:
        print(json.dumps(answer(client, json.loads(line))), flush=True)
    client.close()


if __name__ == "__main__":
    main()
