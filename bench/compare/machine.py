"""The machine: which cores are whose, what processes cost on it, and what it is.

Invariant: CPU time is read from the clocks of processes, in nanoseconds; they count threads that have ended.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROC = Path("/proc")
DEAD = "ZX"
TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """The cores of the measured server, and those of all others; none where they cannot be kept apart."""

    server: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    @classmethod
    def split(cls, processes: int = 1) -> Cores:
        """Give the server a core for each of its processes, and leave one at least."""
        if not hasattr(os, "sched_getaffinity"):
            return cls()
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            return cls()
        count = min(processes, len(allowed) - 1)
        return cls(tuple(allowed[:count]), tuple(allowed[count:]))


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on these cores; on all that it had if none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put SIGINT and SIGTERM off until the end: what is started meanwhile is not lost sight of."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    held: list[int] = []
    before = [signal.signal(number, lambda which, _: held.append(which)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def allow_files(wanted: int = 65536) -> int:
    """Let this process, and those that it starts, have so many open files; return how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def processes(session: int) -> list[int]:
    """Return the ids of the processes of a session that have not ended."""
    stats = ((int(each.name), _stat(each)) for each in PROC.iterdir() if each.name.isdigit())
    return [pid for pid, stat in stats if stat and int(stat[3]) == session and stat[0] not in DEAD]


def alive(pid: int) -> bool:
    """Return whether there is a process of this id that has not ended."""
    return bool(stat := _stat(PROC / str(pid))) and stat[0] not in DEAD


def cpu(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used, their ended threads and children included."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(_clock(pid))
        except OSError:
            continue  # it has ended
        if stat := _stat(PROC / str(pid)):
            total += (int(stat[13]) + int(stat[14])) * TICK  # of children that were waited for
    return total


def busy(pids: Iterable[int]) -> bool:
    """Return whether a thread of these processes runs, or would if it had a core."""
    for pid in pids:
        for task in (PROC / str(pid) / "task").glob("*"):
            if (stat := _stat(task)) and stat[0] in "RD":
                return True
    return False


def memory(pids: Iterable[int]) -> int:
    """Return the bytes of processes; each page is divided among those who share it."""
    total = 0
    for pid in pids:
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        if found := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
            total += int(found[1]) * 1024
    return total


def describe(cores: Cores) -> dict[str, Any]:
    """Tell what is measured on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinned": {"server": list(cores.server), "database and load": list(cores.others)}
        if cores.server
        else "no",
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _clock(pid: int) -> int:
    """Return the id of the CPU clock of a process, as clock_getcpuclockid(3) does."""
    return (~pid << 3) | 2


def _stat(process: Path) -> list[str]:
    """Return the fields of a process or thread from the third on, or none if it has ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_model() -> str:
    try:
        text = (PROC / "cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()
