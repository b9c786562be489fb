"""FastAPI with SQLAlchemy's asyncio extension, on asyncmy or (``--driver aiomysql``) aiomysql.

As FastAPI's documentation does it: a dependency yields the session of the request, and the engines live as
long as the application does. uvicorn serves, with uvloop, httptools and its own workers; there is no access
log. The JSON is made as all peers make it, and not by pydantic.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations.

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import django
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from bench.peers import options, pages, sqlalchemy_work


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the engines in the process that serves, and close them in the end."""
    django.setup()
    pool, driver = int(os.environ["BENCH_POOL"]), os.environ["BENCH_DRIVER"]
    app.state.database = sqlalchemy_work.Database(options.database(), pool, driver)
    yield
    await app.state.database.close()


async def reading(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.database.reading() as session:
        yield session


async def writing(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.database.writing() as session:
        yield session


Reading = Annotated[AsyncSession, Depends(reading)]
Writing = Annotated[AsyncSession, Depends(writing)]

app = FastAPI(lifespan=lifespan)


def as_json(value: Any) -> Response:
    return Response(content=pages.dumps(value), media_type=pages.JSON)


@app.get("/json")
async def json() -> Response:
    return as_json({"message": pages.HELLO})


@app.get("/plaintext")
async def plaintext() -> Response:
    return Response(content=pages.HELLO, media_type=pages.PLAIN)


@app.get("/db")
async def single_query(session: Reading) -> Response:
    return as_json(await sqlalchemy_work.read_world(session))


@app.get("/queries")
async def multiple_queries(session: Reading, queries: str | None = None) -> Response:
    number = pages.number_of_queries(queries)
    return as_json(await sqlalchemy_work.read_worlds(session, number))


@app.get("/updates")
async def updates(session: Writing, queries: str | None = None) -> Response:
    number = pages.number_of_queries(queries)
    return as_json(await sqlalchemy_work.update_worlds(session, number))


@app.get("/fortunes")
async def fortunes(session: Reading) -> Response:
    page = pages.render_fortunes(await sqlalchemy_work.read_fortunes(session))
    return Response(content=page, media_type=pages.HTML)


@app.get("/sleep")
async def sleep(session: Reading, ms: str | None = None) -> Response:
    number = pages.milliseconds(ms)
    await sqlalchemy_work.sleep(session, number)
    return as_json({"ms": number})


@app.get("/page")
async def books(session: Reading) -> Response:
    page = pages.first_page(*await sqlalchemy_work.read_books(session))
    return Response(content=pages.render_page(page), media_type=pages.HTML)


def main() -> None:
    parser = options.parser(__doc__)
    drivers = sqlalchemy_work.DRIVERS
    parser.add_argument("--driver", choices=drivers, default=drivers[0])
    given = parser.parse_args()
    options.choose(driver=given.driver, pool=given.pool)  # the workers inherit it
    uvicorn.run(
        "bench.peers.fastapi_sqlalchemy:app",
        port=given.port,
        workers=given.processes,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
