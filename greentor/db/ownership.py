"""Who may use a connection, in words: the refusal that names its owner and its user."""

from __future__ import annotations

import asyncio
from typing import Any

from greentor.bridge import Green


def refusal(alias: str, owner: str, user: str) -> str:
    """Return the message for ``user`` of a connection that, as ``owner`` says, is somebody else's."""
    return (
        f"the connection {alias!r} {owner} and was used by {user}: use "
        f"django.db.connections[{alias!r}] there, which gives each scope its own"
    )


def describe_user(g: Any) -> str:
    """Name who runs in ``g``, the current greenlet: its scope, if it is one of ours."""
    if type(g) is Green:
        return g.frame.scope.name
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return "a thread outside greenlets"
    return f"a coroutine outside any greenlet ({task.get_name()})" if task else "a callback"
