"""The programs that are compared: each serves the same workloads in its own way, from one small file.

    python -m bench.peers.tornado_threads --port 8001 --pool 32

serves on 127.0.0.1. Each takes ``--port``, ``--pool`` and ``--processes``, and what its entry here adds;
``BENCH_DATABASE`` holds the parameters of the database as JSON (host, port, user, password, database). What
a pool is differs: threads that have a connection each, or connections. Where one has none, it is 0.

Invariants
- A ceiling asks no database, and is none of those that are compared; what follows is of the others.
- This module imports none of them: the runner of the comparison does not need what they need.
- All read in autocommit and ask for the same rows with a query each; all serialise with `json.dumps`, and
  render Django's templates, so that what differs is the server and the way to the database.
"""

from __future__ import annotations

from dataclasses import dataclass

POOLS = (8, 32, 256)


@dataclass(frozen=True)
class Peer:
    """A program to be compared, and how it is started."""

    name: str
    title: str
    module: str
    #: whose versions are reported
    packages: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    #: the sizes that are tried; the best is taken
    pools: tuple[int, ...] = POOLS
    #: what is pooled, for the reader: threads or connections
    pool_of: str = "connections"
    ours: bool = False
    #: what it serves, where that is not all: without the database, by the rules of `verify.ALONE`
    workloads: tuple[str, ...] = ()
    #: it does less than is asked of the others, and shows what those on its HTTP server cannot exceed
    ceiling: bool = False

    def serves(self, workload: str) -> bool:
        return not self.workloads or workload in self.workloads


_TORNADO = ("tornado", "Django")

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "greentor",
            "greentor, PyMySQL, asyncio",
            "greentor_",
            (*_TORNADO, "greentor", "PyMySQL", "greenlet"),
            ours=True,
        ),
        Peer(
            "greentor-uvloop",
            "greentor, PyMySQL, uvloop",
            "greentor_",
            (*_TORNADO, "greentor", "PyMySQL", "greenlet", "uvloop"),
            ("--loop", "uvloop"),
            ours=True,
        ),
        Peer(
            "greentor-httptools",
            "greentor, PyMySQL, httptools, uvloop",
            "greentor_",
            (*_TORNADO, "greentor", "PyMySQL", "greenlet", "uvloop", "httptools"),
            ("--loop", "uvloop", "--http", "httptools"),
            ours=True,
        ),
        Peer(
            "floor",
            "Tornado, ORM blocking in the loop, PyMySQL",
            "tornado_blocking",
            (*_TORNADO, "PyMySQL"),
            pools=(1,),
        ),
        Peer(
            "threads",
            "Tornado + threads, mysqlclient",
            "tornado_threads",
            (*_TORNADO, "mysqlclient"),
            pool_of="threads",
        ),
        Peer(
            "threads-pymysql",
            "Tornado + threads, PyMySQL",
            "tornado_threads",
            (*_TORNADO, "PyMySQL"),
            ("--driver", "PyMySQL"),
            pool_of="threads",
        ),
        Peer(
            "gthread",
            "gunicorn gthread, mysqlclient",
            "gunicorn_gthread",
            ("gunicorn", "Django", "mysqlclient"),
            pool_of="threads",
        ),
        Peer(
            "gevent",
            "gunicorn gevent, PyMySQL, a connection per request",
            "gunicorn_gevent",
            ("gunicorn", "gevent", "Django", "PyMySQL"),
            pools=(0,),
        ),
        Peer(
            "gevent-persistent",
            "gunicorn gevent, PyMySQL, a connection per client",
            "gunicorn_gevent",
            ("gunicorn", "gevent", "Django", "PyMySQL"),
            ("--persistent",),
            pools=(0,),
        ),
        Peer(
            "granian",
            "granian WSGI, mysqlclient",
            "granian_wsgi",
            ("granian", "Django", "mysqlclient"),
            pool_of="threads",
        ),
        Peer(
            "uvicorn",
            "uvicorn, Django's async ORM, mysqlclient",
            "uvicorn_django",
            ("uvicorn", "uvloop", "httptools", "Django", "asgiref", "mysqlclient"),
            pools=(0,),
        ),
        Peer(
            "tornado-sqlalchemy",
            "Tornado + SQLAlchemy asyncio, asyncmy",
            "tornado_sqlalchemy",
            ("tornado", "SQLAlchemy", "asyncmy"),
        ),
        Peer(
            "fastapi-asyncmy",
            "FastAPI + SQLAlchemy asyncio, asyncmy",
            "fastapi_sqlalchemy",
            ("fastapi", "uvicorn", "uvloop", "httptools", "SQLAlchemy", "asyncmy"),
        ),
        Peer(
            "fastapi-aiomysql",
            "FastAPI + SQLAlchemy asyncio, aiomysql",
            "fastapi_sqlalchemy",
            ("fastapi", "uvicorn", "uvloop", "httptools", "SQLAlchemy", "aiomysql"),
            ("--driver", "aiomysql"),
        ),
        Peer(
            "peewee",
            "Tornado + peewee asyncio, aiomysql",
            "tornado_peewee",
            ("tornado", "peewee", "aiomysql"),
        ),
        Peer(
            "tornado-alone",
            "Tornado alone: asyncio.sleep, no database",
            "tornado_alone",
            ("tornado",),
            pools=(0,),
            workloads=("json", "plaintext", "sleep-50"),
            ceiling=True,
        ),
    )
}
