"""`greentor.pool.state`: the books of a pool against an exact model, without a loop or a connection.

The model is what one would write who need not care for cost: lists, copied and searched. After every step
both must agree on all that there is: who has which connection, what is idle, in which order, who waits.
"""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from greentor.pool.state import BETWEEN, IDLE, LENT, WRITTEN_OFF, Entry, PoolState

#: the steps of a pool, and how often they come
OPERATIONS = {
    "arrive": 8,
    "opened": 10,
    "opening_fails": 2,
    "lend": 10,
    "give_back": 10,
    "write_off": 2,
    "what_was_written_off_comes_back": 2,
    "give_up": 2,
    "leave": 1,
    "warm": 2,
    "close_the_coldest": 1,
    "drop_what_was_lost": 1,
    "time_goes_by": 3,
    "send_all_away": 1,
}


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return str(self.number)


class Waiter:
    """What a future is to the books."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.gave_up = False
        self.results: list[Entry[Connection] | None] = []

    def done(self) -> bool:
        return self.gave_up or bool(self.results)

    def set_result(self, result: Entry[Connection] | None, /) -> None:
        assert not self.done()
        self.results.append(result)


@dataclass
class Model:
    """A pool as plainly as it can be said; numbers stand for connections and for waiters."""

    pool_size: int
    limit: int
    slots: int = 0  # taken, but without a connection
    between: list[int] = field(default_factory=list)
    lent: list[int] = field(default_factory=list)
    written_off: list[int] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)

    @property
    def in_use(self) -> int:
        return self.slots + len(self.between) + len(self.lent)


class BooksMachine(RuleBasedStateMachine):
    """Drives the books as a pool does, and the model alike; ``pick`` says whom it concerns, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: list[Connection] = []
        self.waiters: dict[int, Waiter] = {}
        self.clock = 0.0

    @initialize(size=st.integers(0, 3), overflow=st.integers(0, 2))
    def create(self, size: int, overflow: int) -> None:
        limit = size + (overflow or not size)
        self.books: PoolState[Connection] = PoolState("model", size, limit)
        self.model = Model(size, limit)

    @rule(
        operations=st.lists(
            st.tuples(
                st.sampled_from([name for name, often in OPERATIONS.items() for _ in range(often)]),
                st.integers(0, 99),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def happen(self, operations: list[tuple[str, int]]) -> None:
        for name, pick in operations:
            getattr(self, name)(pick)
            self.both_agree()
            self.what_the_pool_promises()

    # --- what a pool does ---------------------------------------------------------------------

    def arrive(self, pick: int) -> None:
        model = self.model
        if len(model.queue) > 3:
            return
        served = not model.queue and model.in_use + len(model.idle) < model.limit
        served = served or (not model.queue and bool(model.idle))
        assert self.books.claim() == served
        if not served:
            waiter = Waiter(len(self.waiters))
            self.waiters[waiter.number] = waiter
            self.books.waiters[waiter] = self.clock
            model.queue.append(waiter.number)
            return
        model.slots += 1
        self.take_idle()

    def take_idle(self) -> None:
        """Put the idle connection used last on the slot that was claimed."""
        entry, model = self.books.pop_idle(), self.model
        if not model.idle:
            assert entry is None
            return
        assert entry is not None
        assert entry.connection.number == model.idle.pop()
        model.slots -= 1
        model.between.append(entry.connection.number)

    def warm(self, pick: int) -> None:
        model, size = self.model, pick % 6
        room = not model.queue and model.in_use + len(model.idle) < min(size, model.limit)
        assert self.books.claim_below(size) == room
        model.slots += room

    def opened(self, pick: int) -> None:
        if not self.model.slots:
            return
        connection = Connection(len(self.connections))
        self.connections.append(connection)
        entry = self.books.add(connection, expires=100.0)
        assert entry.connection is connection
        self.model.slots -= 1
        self.model.between.append(connection.number)

    def opening_fails(self, pick: int) -> None:
        if self.model.slots:
            self.model.slots -= 1
            self.pass_on()

    def lend(self, pick: int) -> None:
        if not self.model.between:
            return
        number = self.model.between.pop(pick % len(self.model.between))
        self.model.lent.append(number)
        entry = self.entry(number)
        entry.place = LENT
        entry.since = self.clock

    def give_back(self, pick: int) -> None:
        model, books = self.model, self.books
        if not model.lent:
            return
        number = model.lent.pop(pick % len(model.lent))
        entry = books.find_lent(self.connections[number])
        assert entry is self.entry(number)
        entry.place = BETWEEN
        model.between.append(number)
        if pick >= 80:  # unfit to be lent on
            self.discard(number)
        elif books.offer(entry):
            assert self.waiters[self.serve()].results == [entry]
        else:
            assert self.serve() is None
            model.between.remove(number)
            if len(model.idle) < model.pool_size:
                assert books.shelve(entry, self.clock)
                model.idle.append(number)
            else:
                assert not books.shelve(entry, self.clock)
                model.between.append(number)
                self.discard(number)

    def discard(self, number: int) -> None:
        self.model.between.remove(number)
        self.books.forget(self.entry(number))
        self.pass_on()

    def pass_on(self) -> None:
        """A slot without a connection goes to the next, or is free."""
        if self.books.offer(None):
            served = self.serve()
            assert served is not None
            assert self.waiters[served].results == [None]
            self.model.slots += 1
        else:
            assert self.serve() is None
            self.books.free_slot()

    def serve(self) -> int | None:
        """Return who is served by the model: the first in the queue who has not given up."""
        queue = self.model.queue
        while queue:
            number = queue.pop(0)
            if not self.waiters[number].gave_up:
                return number
        return None

    def write_off(self, pick: int) -> None:
        if not self.model.lent:
            return
        number = self.model.lent.pop(pick % len(self.model.lent))
        self.entry(number).place = WRITTEN_OFF
        self.model.written_off.append(number)
        if pick % 2:  # its slot is kept
            self.model.slots += 1
        else:
            self.pass_on()

    def what_was_written_off_comes_back(self, pick: int) -> None:
        if not self.model.written_off:
            return
        number = self.model.written_off.pop(pick % len(self.model.written_off))
        entry = self.books.find_lent(self.connections[number])
        assert entry is not None
        self.books.forget(entry)

    def give_up(self, pick: int) -> None:
        """Its future is cancelled; it leaves the queue later, when its greenlet runs."""
        if self.model.queue:
            self.waiters[self.model.queue[pick % len(self.model.queue)]].gave_up = True

    def leave(self, pick: int) -> None:
        if not self.model.queue:
            return
        number = self.model.queue.pop(pick % len(self.model.queue))
        self.waiters[number].gave_up = True
        del self.books.waiters[self.waiters[number]]

    def close_the_coldest(self, pick: int) -> None:
        if not self.model.idle:
            return
        entry = self.books.pop_coldest()
        assert entry.connection.number == self.model.idle.pop(0)
        self.books.forget(entry)

    def drop_what_was_lost(self, pick: int) -> None:
        numbers = [n for place, n in enumerate(self.model.idle) if pick >> place & 1]
        dropped = self.books.drop_idle(lambda connection: connection.number in numbers)
        assert [entry.connection.number for entry in dropped] == numbers
        self.model.idle = [n for n in self.model.idle if n not in numbers]
        for entry in dropped:
            self.books.forget(entry)

    def time_goes_by(self, pick: int) -> None:
        self.clock += 1

    def send_all_away(self, pick: int) -> None:
        sent = [waiter.number for waiter in self.books.empty_queue()]
        assert sent == self.model.queue
        self.model.queue = []
        for number in sent:
            self.waiters[number].gave_up = True

    # --- what must be so ----------------------------------------------------------------------

    def entry(self, number: int) -> Entry[Connection]:
        return self.books.entries[id(self.connections[number])]

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "books"):
            return  # the machine looks before it is set up
        books, model = self.books, self.model
        assert [entry.connection.number for entry in books.idle] == model.idle
        assert [waiter.number for waiter in books.waiters] == model.queue
        places: dict[str, set[int]] = {IDLE: set(), LENT: set(), BETWEEN: set(), WRITTEN_OFF: set()}
        for entry in books.entries.values():
            places[entry.place].add(entry.connection.number)
        assert places == {
            IDLE: set(model.idle),
            LENT: set(model.lent),
            BETWEEN: set(model.between),
            WRITTEN_OFF: set(model.written_off),
        }
        assert books.in_use == model.in_use
        assert books.size == model.in_use + len(model.idle) <= model.limit
        assert books.is_full() == (0 < model.pool_size == len(model.idle))
        for connection in self.connections:
            found = books.find_lent(connection)
            assert (found is not None) == (connection.number in model.lent + model.written_off)
        assert f"{model.in_use} of {model.limit} in use, {len(model.idle)} idle" in repr(books)

    @invariant()
    def what_the_pool_promises(self) -> None:
        if hasattr(self, "books"):
            waiting = [n for n in self.model.queue if not self.waiters[n].gave_up]
            assert not (waiting and self.model.idle), "idle though somebody waits"
            assert not waiting or self.model.in_use == self.model.limit, (
                "free though somebody waits"
            )
            since = [entry.since for entry in self.books.idle]
            assert since == sorted(since), "not in the order in which they came"


def test_the_books_agree_with_the_model() -> None:
    run_state_machine_as_test(
        BooksMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
