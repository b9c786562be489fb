"""The clients: how each kind of request is sent, and what its answer must be.

Invariants
- An answer that is not the one that the kind demands is noted in `Tally.wrong`, and ends nothing.
- The mix depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tornado.websocket import WebSocketClientConnection, websocket_connect

from bench.client import Client, hammer

#: seconds after which a client that is to vanish does so
PATIENCE = 0.02
#: seconds; no request takes longer, or it hangs
LIMIT = 60.0


@dataclass
class Tally:
    """What became of the requests."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.answers.values())


Go = Callable[[Client, str], Awaitable[str]]


class Wrong(Exception):
    """An answer is not what it must be."""


def answered(path: str, status: int = 200) -> Go:
    """Send a request that must be answered so."""

    async def go(client: Client, token: str) -> str:
        found, body = await client.get(path.replace("TOKEN", token))
        if found != status:
            raise Wrong(f"{found} instead of {status}: {body[:120]!r}")
        return str(found)

    return go


def vanishing(path: str) -> Go:
    """Send a request and drop the connection before the answer comes."""

    async def go(client: Client, token: str) -> str:
        await client.send(path.replace("TOKEN", token))
        await asyncio.sleep(PATIENCE)
        client.vanish()
        return "client gone"

    return go


async def gone(client: Client, token: str) -> str:
    """Send a request and drop the connection: at some time, or when its transaction has begun."""
    await client.send(f"/fire/gone?token={token}")
    if int(token.rpartition("-")[2]) % 2 == 1:
        assert client._reader is not None
        await client._reader.readuntil(b"begun")
    else:
        await asyncio.sleep(PATIENCE)
    client.vanish()
    return "client gone"


async def socket(client: Client, token: str) -> str:
    """Open a websocket, send two messages, and end it in one of three ways."""
    connection = await websocket_connect(f"ws://127.0.0.1:{client._port}/fire/socket")
    try:
        for number in range(2):
            message = f"{token}-{number}"
            await connection.write_message(message)
            if (answer := await connection.read_message()) != message:
                raise Wrong(f"{answer!r} instead of {message!r}")
        end = int(token.rpartition("-")[2]) % 3
        if end == 0:
            await connection.write_message(f"raise-{token}")
            if (answer := await connection.read_message()) is not None:
                raise Wrong(f"{answer!r} instead of an end")
        elif end == 1:  # with a message at work
            await connection.write_message(f"{token}-lost")
            await asyncio.sleep(PATIENCE)
            abort(connection)
        return "closed"
    finally:
        connection.close()


def abort(connection: WebSocketClientConnection) -> None:
    """Drop the connection of a websocket without a word."""
    assert connection.protocol is not None
    connection.protocol.stream.close()


#: every way in which a request may end, but for those that end the program
KINDS: dict[str, Go] = {
    "normal": answered("/fire/normal?token=TOKEN"),
    "db": answered("/db"),
    "sleep": answered("/sleep?ms=50"),
    "raising": answered("/fire/raising?token=TOKEN", 500),
    "early": answered("/fire/early?token=TOKEN"),
    "cancelled": answered("/fire/cancelled?token=TOKEN", 500),
    "deadline": answered("/fire/deadline?token=TOKEN", 504),
    "timedout": answered("/fire/timedout?token=TOKEN", 504),
    "gone": gone,
    "unheard": vanishing("/fire/unheard?token=TOKEN"),
    "coroutine": vanishing("/fire/coroutine?token=TOKEN"),
    "abandoned": answered("/fire/abandoned?token=TOKEN"),
    "collected": answered("/fire/collected?token=TOKEN"),
    "spawning": answered("/fire/spawning?token=TOKEN"),
    "tasks": answered("/fire/tasks?token=TOKEN"),
    "socket": socket,
}

#: all kinds of faults and of work beside the request, the same share each
FAULTS = tuple(name for name in KINDS if name not in ("normal", "db", "sleep"))


def even(share: float) -> dict[str, float]:
    """Return that share for each kind of fault, and the rest for requests without one."""
    rest = 1 - share * len(FAULTS)
    if rest < 0:
        raise ValueError(f"{len(FAULTS)} kinds of {share:.0%} are more than all")
    return {**dict.fromkeys(FAULTS, share), "normal": rest / 2, "db": rest / 2}


async def fill(port: int, pool: int) -> None:
    """Have all connections of a pool open, so that how many are idle makes no difference."""
    await send(port, {"sleep": 1}, 2 * pool, 2 * pool, Tally())


async def send(
    port: int,
    mix: Mapping[str, float],
    requests: int,
    clients: int,
    tally: Tally,
    first: int = 0,
) -> None:
    """Send so many requests of a mix, ``clients`` at a time; their tokens begin with ``first``."""
    chance = random.Random(first)
    names = chance.choices(list(mix), list(mix.values()), k=requests)

    async def one(client: Client, number: int) -> None:
        name = names[number]
        token = f"{name}-{first + number}"
        try:
            async with asyncio.timeout(LIMIT):
                end = await KINDS[name](client, token)
        except (Wrong, OSError, TimeoutError, EOFError) as error:
            client.vanish()
            tally.wrong.append(f"{token}: {error!r}")
            end = "wrong"
        tally.answers[f"{name}: {end}"] += 1

    await hammer(port, requests, clients, one)
