"""`Supervisor`: the parent of the processes that serve. It knows neither asyncio nor Tornado nor Django.

Invariants
- The parent runs no event loop. It waits for signals, for the end of a worker, and for the next thing due.
- A worker that ends without having been told to is started again: the first time at once, then after a
  pause that doubles, from `PAUSE` to `LONGEST_PAUSE`. One that has served, and lived for `STABLE` seconds,
  starts the count anew. After ``max_restarts`` in a row the parent gives up, stops the others and returns 1.
- SIGTERM or SIGINT: the workers get SIGTERM. Those that are there `KILL_AFTER` seconds after the grace
  period are killed, and the parent returns 1. A second signal kills all at once, the parent included.
- No worker outlives its parent: each holds the read end of a pipe of which only the parent has the write
  end. Its end means stop.
- Workers ignore SIGINT, which a terminal sends to all of them beside the parent, and take a second
  SIGTERM, which an init system may send to all of them, for the first.
- A worker never returns into the code of its parent, and does not run its ``atexit`` functions.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

PAUSE = 0.1
LONGEST_PAUSE = 5.0
STABLE = 10.0
KILL_AFTER = 5.0

_STOP = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP, signal.SIGCHLD)
_PID = struct.Struct("=q")

logger = logging.getLogger("greentor.serving")


@dataclass
class _Worker:
    """A place for a process; ``pid`` is 0 while there is none, ``due`` says when it is to be started."""

    number: int
    pid: int = 0
    started: float = 0
    due: float = 0
    failures: int = 0
    ready: bool = False


class Supervisor:
    """Keep ``processes`` workers running, until a signal says stop.

    ``work(number, parent, ready)`` is called in each of them: with its number, the pipe whose end means
    stop, and what to call when it serves. ``on_ready`` is called in the parent when all do, once;
    ``on_stop`` when it begins to stop.
    """

    def __init__(
        self,
        work: Callable[[int, int, Callable[[], None]], None],
        processes: int,
        *,
        grace: float,
        max_restarts: int,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._work = work
        self._workers = [_Worker(number) for number in range(processes)]
        self._grace = grace
        self._max_restarts = max_restarts
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._said_ready = False
        self._stopping = False
        self._kill_at = 0.0
        self._status = 0

    def run(self) -> int:
        """Return the exit status when all workers have ended: 0 if each did so by itself, else 1.

        It must be called in the main thread.
        """
        alive, self._alive = os.pipe()
        ready, self._ready = os.pipe()
        self._parent, self._is_ready = alive, ready
        try:
            with _wakeup() as wakeup:
                self._wakeup = wakeup
                while True:
                    self._reap()
                    if not self._stopping:
                        self._start_those_due()
                    elif not any(worker.pid for worker in self._workers):
                        return self._status
                    elif self._kill_at <= time.monotonic():
                        self._kill()
                    self._wait()
        finally:
            # Workers that an error here has left alone see the end of their pipe.
            for fd in (alive, self._alive, ready, self._ready):
                os.close(fd)

    # --- workers ------------------------------------------------------------------------------

    def _start_those_due(self) -> None:
        for worker in self._workers:
            if not (worker.pid or self._stopping) and worker.due <= time.monotonic():
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        worker.started = time.monotonic()
        worker.ready = False
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            worker.pid = os.fork()
            if not worker.pid:
                self._be(worker, blocked)
        except OSError as error:
            logger.error("worker %d cannot be started: %s", worker.number, error)
            self._ended(worker)
        else:
            logger.info("worker %d started, process %d", worker.number, worker.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _be(self, worker: _Worker, blocked: set[int]) -> NoReturn:
        """Be the worker, in the child, to its end."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Not SIG_IGN, which the programs would inherit that it starts.
            signal.signal(signal.SIGINT, _nothing)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for fd in (self._alive, self._is_ready, *self._wakeup):
                os.close(fd)
            self._work(worker.number, self._parent, self._say_ready)
            status = 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            if exit_.code is not None and not isinstance(exit_.code, int):
                logger.error("worker %d: %s", worker.number, exit_.code)
        except BaseException:
            logger.exception("worker %d failed", worker.number)
        finally:
            try:
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def _say_ready(self) -> None:
        os.write(self._ready, _PID.pack(os.getpid()))

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            worker.pid = 0
            if not self._stopping:
                logger.error("worker %d, process %d, %s", worker.number, pid, how)
                self._ended(worker)
            elif code not in (0, -signal.SIGTERM):  # by SIGTERM: while it was starting
                logger.error("worker %d, process %d, %s", worker.number, pid, how)
                self._status = 1

    def _ended(self, worker: _Worker) -> None:
        """Have a worker that ended by itself started again, or give up."""
        now = time.monotonic()
        if worker.ready and now - worker.started >= STABLE:
            worker.failures = 0
        worker.failures += 1
        if worker.failures > self._max_restarts:
            if not self._stopping:
                logger.critical(
                    "worker %d ended %d times in a row: giving up", worker.number, worker.failures
                )
                self._stop()
            self._status = 1
            return
        pause = 0.0
        if worker.failures > 1:
            pause = min(PAUSE * 2 ** (worker.failures - 2), LONGEST_PAUSE)
            logger.warning("worker %d will be started in %g s", worker.number, pause)
        worker.due = now + pause

    # --- the end ------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._stopping = True
        self._kill_at = time.monotonic() + self._grace + KILL_AFTER
        self._on_stop()
        self._send(signal.SIGTERM)

    def _kill(self) -> None:
        left = [worker.number for worker in self._workers if worker.pid]
        logger.error("killed after %g s: workers %s", self._grace + KILL_AFTER, left)
        self._send(signal.SIGKILL)
        self._kill_at = float("inf")

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                os.kill(worker.pid, number)  # it is ours until it is reaped

    def _end_at_once(self, number: int) -> NoReturn:
        self._send(signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # the first process of a container is deaf to the signal

    # --- waiting ------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for a signal, a worker that is ready, or what is due next."""
        now = time.monotonic()
        timeout = None
        if self._stopping:
            if self._kill_at != float("inf"):
                timeout = self._kill_at - now
        elif pauses := [worker.due - now for worker in self._workers if not worker.pid]:
            timeout = min(pauses)
        if timeout is not None:
            timeout = max(timeout, 0)
        wakeup = self._wakeup[0]
        readable, _, _ = select.select([wakeup, self._is_ready], [], [], timeout)
        if self._is_ready in readable:
            self._note_ready()
        if wakeup in readable:
            for number in os.read(wakeup, 4096):
                if number not in _STOP:
                    continue
                if self._stopping:
                    self._end_at_once(number)
                logger.info("stopping, by %s", signal.Signals(number).name)
                self._stop()

    def _note_ready(self) -> None:
        for (pid,) in _PID.iter_unpack(os.read(self._is_ready, 512 * _PID.size)):
            for worker in self._workers:
                worker.ready = worker.ready or worker.pid == pid
        if not self._said_ready and all(worker.ready for worker in self._workers):
            self._said_ready = True
            self._on_ready()


@contextmanager
def _wakeup() -> Iterator[tuple[int, int]]:
    """Have signals write their number into a pipe; on the way out, put back what was."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write)
    handlers = {number: signal.signal(number, _nothing) for number in _SIGNALS}
    try:
        yield read, write
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        os.close(read)
        os.close(write)


def _nothing(number: int, frame: object) -> None:
    """Handle a signal by doing nothing: its number is in the pipe already."""
