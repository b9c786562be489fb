"""`stepped`: the body of a ``@gen.coroutine`` as an async function.

Tornado's own runner resumes such a generator from the loop after its first ``yield``, outside the greenlet.
An async function is stepped in it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from tornado import gen


def stepped(
    coroutine: Callable[..., Any], generator_function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """Run the body of a ``@gen.coroutine`` as an async function.

    Tornado's own runner resumes it from the loop after the first ``yield``, outside the greenlet.
    """

    @functools.wraps(coroutine)  # with what other decorators have marked it with
    async def method(*args: Any, **kwargs: Any) -> Any:
        generator = generator_function(*args, **kwargs)
        try:
            item = next(generator)
            while True:
                try:
                    value = await wait_for(item)
                except (Exception, asyncio.CancelledError) as exc:
                    item = generator.throw(exc)
                else:
                    item = generator.send(value)
        except (StopIteration, gen.Return) as stop:
            return stop.value
        finally:
            generator.close()

    return method


async def wait_for(item: Any) -> Any:
    """Wait for whatever a ``@gen.coroutine`` may yield, or a method of Tornado return."""
    if inspect.iscoroutine(item):
        return await item
    future = gen.convert_yielded(item)
    if isinstance(future, Awaitable):
        return await future
    await asyncio.sleep(0)  # gen.moment, None: just let the loop run
    return None
