"""What an application does with a connection, cooperative or blocking, and what it saw of each step."""

import datetime
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pymysql
from pymysql import converters, cursors
from pymysql.constants import FIELD_TYPE

from tests.fuzz.wires import PROBE

CURSORS = {
    "Cursor": cursors.Cursor,
    "DictCursor": cursors.DictCursor,
    "SSCursor": cursors.SSCursor,
    "SSDictCursor": cursors.SSDictCursor,
}
FETCHES = ("all", "one by one", "many", "iterate", "some", "none")


class Refused(Exception):
    """What the application's own converter raises."""


def refuse_long(value: Any) -> Any:
    if len(value) > 20:
        raise Refused("too long")
    return value


def reverse(value: Any) -> Any:
    return value[::-1]


#: maps of converters, as an application passes them in `conv`; those of `OWN` can raise what they like
CONVERTERS: dict[str, Any] = {
    "default": None,
    "empty": {},
    "copy": converters.conversions.copy(),
    "decoders": converters.decoders.copy(),
    "encoders": converters.encoders.copy(),
    "integers": {FIELD_TYPE.LONG: int, FIELD_TYPE.LONGLONG: int},
    "through": {**converters.conversions, FIELD_TYPE.LONG: converters.through},
    "django": {**converters.conversions, FIELD_TYPE.TIME: converters.convert_time},
    "own": {
        **converters.conversions,
        FIELD_TYPE.NEWDECIMAL: float,
        FIELD_TYPE.VAR_STRING: reverse,
        FIELD_TYPE.DATETIME: str,
        FIELD_TYPE.BIT: len,
    },
    "dates of text": {FIELD_TYPE.STRING: converters.convert_datetime, FIELD_TYPE.LONG: Decimal},
    "refusing": {
        **converters.conversions,
        FIELD_TYPE.VAR_STRING: refuse_long,
        FIELD_TYPE.BLOB: refuse_long,
    },
}
OWN = ("django", "own", "dates of text", "refusing")


@dataclass(frozen=True)
class Settings:
    """How the application connects, and how it ends."""

    charset: str = "utf8mb4"
    use_unicode: bool = True
    conv: str = "default"
    local_infile: bool = False
    password: str = "secret"
    database: str | None = None
    autocommit: bool | None = None
    unix_socket: bool = False
    #: "close", or "drop" for an application that forgets its connection
    leave: str = "close"

    def arguments(self) -> dict[str, Any]:
        return {
            "user": "me",
            "password": self.password,
            "database": self.database,
            "charset": self.charset,
            "use_unicode": self.use_unicode,
            "conv": CONVERTERS[self.conv],
            "local_infile": self.local_infile,
            "autocommit": self.autocommit,
            "unix_socket": "/nowhere" if self.unix_socket else None,
            "ssl_disabled": True,
        }


@dataclass(frozen=True)
class Action:
    """One step of an application."""

    kind: str
    cursor: str = "Cursor"
    fetch: str = "all"
    close: bool = True


@dataclass
class Seen:
    """What came of an action: a value, or an error."""

    action: Action
    value: Any = None
    error: type[BaseException] | None = None
    args: tuple[Any, ...] = ()
    #: the innermost line that raised it
    where: str = ""
    #: whether the connection was open after it
    open: bool = True

    def __str__(self) -> str:
        what = (
            self.value if self.error is None else f"{self.error.__name__}{self.args} {self.where}"
        )
        return f"{self.action.kind}: {what}"


@dataclass
class Application:
    """Opens a connection and goes through its actions, whatever becomes of each; then it probes twice."""

    connect: Callable[[], Any]
    actions: list[Action]
    #: called before each action, when the server has said all that it has to say meanwhile
    settle: Callable[[], None]
    leave: str = "close"
    sees: list[Seen] = field(default_factory=list)
    #: whether it is in the middle of an action
    busy: bool = False

    def run(self) -> list[Seen]:
        connection: Any = None

        def open_connection(action: Action) -> Any:
            nonlocal connection
            connection = self.connect()
            return (connection.server_version, connection.thread_id(), connection.server_status)

        def act(action: Action) -> Any:
            return perform(connection, action)

        if self._do(Action("connect"), open_connection).error is not None:
            self.sees[-1].open = False
        else:
            for action in self.actions:
                self._do(action, act)
                self.sees[-1].open = connection.open
            for number in range(2):
                self._do(Action(f"probe {number}"), act)
                self.sees[-1].open = connection.open
            if self.leave == "close" and connection.open:
                connection.close()
        return self.sees

    def _do(self, action: Action, do: Callable[[Action], Any]) -> Seen:
        self.settle()
        self.busy = True
        try:
            seen = Seen(action, do(action))
        except Exception as exc:
            seen = Seen(action, None, type(exc), tuple(map(str, exc.args)), _where(exc))
        finally:
            self.busy = False
        self.sees.append(seen)
        return seen


def perform(connection: Any, action: Action) -> Any:
    """Do what the action says and return all that an application can see of it."""
    kind = action.kind
    if kind.startswith("probe"):
        return probe(connection, kind)
    if kind == "query":
        return exact(list(query(connection, action)))
    if kind == "load":
        with connection.cursor() as cursor:
            cursor.execute("LOAD DATA LOCAL INFILE 'it' INTO TABLE t")
            return exact(facts(connection, cursor))
    if kind == "select_db":
        connection.select_db("other")
    elif kind == "set_character_set":
        connection.set_character_set(connection.charset)
        return None  # it reads no status
    elif kind == "show_warnings":
        return exact(connection.show_warnings())
    else:  # ping, begin, commit, rollback
        getattr(connection, kind)()
    return connection.server_status


def probe(connection: Any, kind: str) -> Any:
    """Ask what only the true answer can answer."""
    with connection.cursor() as cursor:
        cursor.execute(PROBE.decode() + kind + "'")
        return exact(cursor.fetchall())


def query(connection: Any, action: Action) -> Iterator[Any]:
    cursor = connection.cursor(CURSORS[action.cursor])
    try:
        yield cursor.execute("SELECT 1")
        while True:
            yield facts(connection, cursor)
            yield fetch(cursor, action)
            yield facts(connection, cursor)
            if action.fetch == "none" or not cursor.nextset():
                break
    finally:
        connection.kept = cursor  # an unbuffered one, collected, closes its connection or reads on
        if action.close and connection.open:
            cursor.close()
    yield facts(connection, cursor)


def facts(connection: Any, cursor: Any) -> tuple[Any, ...]:
    return (
        cursor.rowcount,
        cursor.description,
        cursor.lastrowid,
        cursor.warning_count & 0xFFFF,  # that of the end of rows is a signed number to PyMySQL
        cursor.rownumber,
        # PyMySQL drops the status that ends the rows, and the cooperative connection keeps it
        connection.server_status if cursor.description is None else None,
        connection.insert_id(),
        connection.affected_rows(),
    )


def fetch(cursor: Any, action: Action) -> Any:
    how = action.fetch
    if cursor.description is None and isinstance(cursor, cursors.SSCursor):
        return None  # there is nothing to read, and PyMySQL would say so in its own ways
    if how == "all":
        return cursor.fetchall()
    if how == "one by one":
        return list(iter(cursor.fetchone, None))
    if how == "many":
        found = []
        while some := cursor.fetchmany(2):
            found.append(some)
        return found
    if how == "iterate":
        return list(cursor)
    if how == "some":
        return [cursor.fetchone(), cursor.fetchmany(1)]
    return None


def exact(value: Any) -> Any:
    """Return what compares equal only to a value of the same type, and the same in all that it shows."""
    if value is None or type(value) in (str, bytes):
        return value
    if type(value) in (list, tuple):
        return (type(value).__name__, *map(exact, value))
    if type(value) is dict:
        return ("dict", *((exact(key), exact(item)) for key, item in value.items()))
    if isinstance(
        value, Decimal | float | int | datetime.date | datetime.time | datetime.timedelta
    ):
        return f"{type(value).__name__} {value!r}"
    raise AssertionError(f"an unexpected value: {value!r}")


def _where(exc: BaseException) -> str:
    frames = list(traceback.walk_tb(exc.__traceback__))
    frame, line = frames[-1]
    code = frame.f_code
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{line} {code.co_name}"


class _Blocking(pymysql.Connection):
    """PyMySQL's; when it is closed its results and its cursors do not read on."""

    def cursor(self, cursor: Any = None) -> Any:
        made = super().cursor(cursor)
        self.__dict__.setdefault("made", []).append(made)
        return made

    def _force_close(self) -> None:
        super()._force_close()
        if self._result is not None:
            self._result.unbuffered_active = False
        for cursor in self.__dict__.pop("made", []):
            cursor.connection = None

    __del__ = _force_close


def connect_blocking(settings: Settings, sock: Any) -> Any:
    """Return a connection of PyMySQL's on this socket."""
    connection = _Blocking(defer_connect=True, **settings.arguments())
    connection._secure = settings.unix_socket
    connection.connect(sock)
    return connection
