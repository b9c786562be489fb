"""The greenlets of a loop, and where they stand: found when somebody asks, at no cost before.

A greenlet is a child of the task that awaits it, so the tasks of the loop lead to all that are parked:
from a task's coroutine, along what each one awaits, to the driver that `greentor.bridge` has there.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from greenlet import getcurrent

from greentor.bridge import Green, running, waiting
from greentor.recording import shorten

#: frames of a stack that are shown, the innermost ones
DEPTH = 12

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = tuple(
    path + os.sep
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)

_DRIVE: CodeType = running._run_frame.__code__
_WAIT: CodeType = waiting.wait.__code__
_STEP: CodeType = waiting.step.__code__

#: in other words, what `bridge.wait` was told, and what calls `bridge.await_` for its own purposes
_WAITS = {
    "reading": "the database",
    "writing": "the database",
    "this": "a future",
    "greentor.waits.thread": "a worker thread",
    "asyncio.tasks.sleep": "a sleep",
}


@dataclass(frozen=True)
class Line:
    """A place in a stack."""

    path: str
    line: int
    function: str
    source: str


@dataclass(frozen=True)
class Position:
    """Where a greenlet stands."""

    #: what it is parked for, in words
    waits_for: str
    #: the query that it waits for, shortened; its parameters are not in it
    sql: str | None
    #: the user's part of its stack, the outermost call first; of a library's, if there is none
    stack: list[Line]


def greenlets(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[asyncio.Task[Any], Green]]:
    """Yield each greenlet of ``loop`` that is parked, and the running one, with its task."""
    current = getcurrent()
    current_task = asyncio.current_task(loop)
    if type(current) is Green and current.loop is loop and current_task is not None:
        yield current_task, current
    for task in asyncio.all_tasks(loop):
        if task is not current_task and (g := _driven_by(task.get_coro())) is not None:
            yield task, g


def _driven_by(awaitable: Any) -> Green | None:
    """Return the greenlet that a suspended coroutine drives, or one that it awaits."""
    while awaitable is not None:
        frame = frame_of(awaitable)
        if frame is not None and frame.f_code is _DRIVE:
            g = frame.f_locals.get("g")
            return g if type(g) is Green and not g.ended else None
        awaitable = awaited(awaitable)
    return None


# Types are compared, and objects not asked: one of somebody else's may do anything when it is.


def frame_of(awaitable: Any) -> FrameType | None:
    """Return the frame of a coroutine or generator that is suspended; None of anything else."""
    if type(awaitable) is CoroutineType:
        return awaitable.cr_frame
    return awaitable.gi_frame if type(awaitable) is GeneratorType else None


def awaited(awaitable: Any) -> Any:
    """Return what a suspended coroutine or generator awaits; None if that cannot be seen."""
    if type(awaitable) is CoroutineType:
        return awaitable.cr_await
    return awaitable.gi_yieldfrom if type(awaitable) is GeneratorType else None


def locate(g: Green) -> Position:
    """Tell where a greenlet stands."""
    frames = _frames(g)
    if not frames:
        return Position("nothing: it runs", None, [])
    sql = next((sql for frame in reversed(frames) if (sql := _query(frame)) is not None), None)
    return Position(_reason(frames), sql, _shown(frames))


def _frames(g: Green) -> list[FrameType]:
    """Return the stack, the outermost frame first, with the coroutines that are suspended on top of it."""
    frames = []
    frame = g.gr_frame
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    if frames and frames[-1].f_code is _STEP:
        awaitable = frames[-1].f_locals.get("coroutine")
        while awaitable is not None:
            if (frame := frame_of(awaitable)) is not None:
                frames.append(frame)
            awaitable = awaited(awaitable)
    return frames


def _reason(frames: list[FrameType]) -> str:
    """Say what the innermost frames wait for."""
    for frame in reversed(frames):
        if frame.f_code is _WAIT:
            what = str(frame.f_locals.get("what"))
            owner = frame.f_back.f_locals.get("self") if frame.f_back is not None else None
            if what == "a connection":
                return f"a connection from the pool {getattr(owner, 'name', '')!r}"
            return _WAITS.get(what, what)
        if frame.f_code is _STEP and frame.f_locals.get("context") is not None:
            return "a connection being opened"
        if not _is_library(frame):
            return "a future"
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        if not name.startswith("greentor.bridge."):
            return _WAITS.get(name, name)
    return "something"


def _query(frame: FrameType) -> str | None:
    """Return the query that a frame of a cursor of ours sends."""
    if frame.f_code.co_name not in ("execute", "_execute", "_executemany") or not _is_ours(frame):
        return None
    local = frame.f_locals
    sql, db = local.get("sql"), getattr(local.get("self"), "db", None)
    # A session has no database of which to know how strings are written there; its cursor is further up.
    return None if sql is None or db is None else shorten(str(sql), db.vendor != "mysql")


def _shown(frames: list[FrameType]) -> list[Line]:
    users = [frame for frame in frames if not _is_library(frame)]
    foreign = [frame for frame in frames if not _is_ours(frame)]
    return [_line(frame) for frame in (users or foreign)[-DEPTH:]]


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


def _is_library(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return path.startswith((_OURS, *_LIBRARIES, "<frozen "))


def _line(frame: FrameType) -> Line:
    path, number = frame.f_code.co_filename, frame.f_lineno or 0
    source = linecache.getline(path, number, frame.f_globals).strip()
    here = os.getcwd() + os.sep
    shown = path.removeprefix(here)
    return Line(shown, number, frame.f_code.co_qualname, source)
