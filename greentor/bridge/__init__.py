"""The bridge between synchronous code and asyncio: the only package that switches greenlets.

A *green* function runs in a greenlet that is a child of the asyncio task that awaits it. When it has to
wait, it hands a future to its driver, a coroutine in that task, which yields it to the event loop and
switches back with the outcome. So ``current_task()``, cancellation, ``asyncio.timeout``, ``TaskGroup`` and
context variables mean in the greenlet what they mean in the task.

`greens` says who runs, `running` starts and ends greenlets, `kept` has those that wait for work, and
`waiting` is what they park in.
"""

from greentor.bridge.greens import (
    DeadlineExceeded,
    Green,
    NotGreen,
    check_alive,
    current_green,
    current_scope,
    detached_context,
    in_green,
    is_dying,
    may_wait,
)
from greentor.bridge.running import green, run_green, run_in_scope, spawn
from greentor.bridge.waiting import await_, step, step_detached, take_turn, wait

__all__ = [
    "DeadlineExceeded",
    "Green",
    "NotGreen",
    "await_",
    "check_alive",
    "current_green",
    "current_scope",
    "detached_context",
    "green",
    "in_green",
    "is_dying",
    "may_wait",
    "run_green",
    "run_in_scope",
    "spawn",
    "step",
    "step_detached",
    "take_turn",
    "wait",
]
