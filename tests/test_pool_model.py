"""`greentor.pool`: random histories on a real loop, checked against what may ever be true."""

import asyncio
import importlib.util
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from greentor import bridge
from greentor.pool import Pool, PoolClosed, PoolOptions
from greentor.pool.state import WRITTEN_OFF
from tests.pool_users import Driver, User
from tests.test_pool import Connection, settle

#: how a holder gives back
OUTCOMES = [
    *["clean"] * 6,
    *("dirty", "dirty and broken", "dirty for good", "closed", "force", "wait"),
]

#: what may happen, and how often
OPERATIONS = {
    "arrive": 8,
    "proceed": 10,
    "give_back": 10,
    "step": 5,
    "turn": 10,
    "cancel": 2,
    "give_back_and_cancel_the_one_who_is_served": 2,
    "time_out": 2,
    "write_off": 2,
    "use_or_free_the_slot_that_was_kept": 3,
    "die_idle": 2,
    "expire_idle": 2,
    "grow_old": 2,
    "warm": 2,
    "finish_warming": 3,
    "cancel_warming": 1,
    "next_pings": 2,
    "driver_fails": 1,
    "driver_works": 2,
    "look": 2,
}


class PoolMachine(RuleBasedStateMachine):
    """Most of what happens only starts things; `step` and `turn` let the loop run, so that several meet."""

    factory: Any = asyncio.new_event_loop

    def __init__(self) -> None:
        super().__init__()
        self.loop = type(self).factory()
        self.users: list[User] = []
        self.holders: dict[int, User] = {}
        self.broken: set[int] = set()
        self.stained: set[int] = set()
        self.waits: set[int] = set()
        self.resetting: User | None = None
        self.served: list[int] = []
        self.driver = Driver()
        self.driver.machine = self
        self.by_task: dict[Any, User] = {}
        self.ping_is = "slow"
        self.kept = 0  # slots kept of what was written off, neither used nor freed
        self.warming: list[asyncio.Task[int]] = []
        self.warm_gates: list[asyncio.Future[str]] = []
        self.opening_ahead = 0
        self.lent = self.refused = self.timed_out = self.written_off = self.failed_early = 0

    @initialize(
        size=st.sampled_from([2, 1, 3, 0]),
        overflow=st.sampled_from([1, 0, 2]),
        min_size=st.sampled_from([0, 1, 3]),
        max_waiting=st.sampled_from([-1, -1, -1, 0, 2]),
        pre_ping=st.booleans(),
    )
    def create(
        self, size: int, overflow: int, min_size: int, max_waiting: int, pre_ping: bool
    ) -> None:
        self.options = PoolOptions(
            size,
            overflow or (not size),
            pool_timeout=1000,
            pool_pre_ping=pre_ping,
            min_size=min(min_size, size),
            max_idle=1000,
            max_waiting=max_waiting,
        )
        self.pool: Pool[Any] = Pool("model", self.driver, self.options)

    def fit_to_lend(self) -> list[Connection]:
        """Return what a newcomer may get at once: the idle connections, those used last first."""
        state, failing = self.pool._state, self.driver.fail
        if state.waiters or self.options.pool_pre_ping or "is_open" in failing or self.pool.closed:
            return []
        return [
            entry.connection
            for entry in reversed(state.idle)
            if entry.connection.open and entry.expires > 0.0
        ]

    def accept(self, user: User, connection: Connection) -> None:
        assert connection.open
        assert connection.clean
        expires = self.pool._state.entries[id(connection)].expires
        assert expires > 0.0 or user.pinged, "too old"  # a ping may take a while
        assert connection.number not in self.holders, "lent to two at once"
        self.holders[connection.number] = user
        user.connection = connection
        self.served.append(user.number)

    def in_state(self, *states: str) -> list[User]:
        return [user for user in self.users if user.state in states]

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
            self.bound_holds()

    @precondition(lambda self: len(self.users) > 25)
    @rule()
    def close(self) -> None:
        self.pool.close()

    # --- what happens; ``pick`` says to whom, and how -----------------------------------------

    def arrive(self, pick: int) -> None:
        if len(self.in_state("new", "waiting")) < 4:
            for number in range(pick % 3 + 1):
                slow = (pick >> number) % 3 == 0
                self.users.append(User(len(self.users), self, slow))

    def told(self, pick: int, *states: str) -> User | None:
        """Pick one of those who are parked in one of the states."""
        users = [user for user in self.in_state(*states) if not user.gate.done()]
        return users[pick % len(users)] if users else None

    def proceed(self, pick: int) -> None:
        """What somebody waits for has come, or failed."""
        if user := self.told(pick, "opening", "pinging", "resetting"):
            user.gate.set_result("fail" if pick % 4 == 3 else "fine")

    def give_back(self, pick: int) -> None:
        if user := self.told(pick, "holding"):
            user.gate.set_result(OUTCOMES[pick % len(OUTCOMES)])

    def cancel(self, pick: int) -> None:
        seldom = self.in_state("pinging", "resetting") if pick % 2 else []
        anybody = self.in_state("waiting", "pinging", "opening", "holding", "resetting")
        if users := seldom or anybody:
            users[pick % len(users)].task.cancel()

    def give_back_and_cancel_the_one_who_is_served(self, pick: int) -> None:
        self.give_back(pick)
        self.step()
        if waiting := self.in_state("waiting"):
            waiting[0].task.cancel()

    def time_out(self, pick: int) -> None:
        if waiters := list(self.pool._state.waiters):
            waiter = waiters[pick % len(waiters)]
            self.timed_out += not waiter.done()
            self.pool._expire(waiter)  # type: ignore[arg-type]

    def die_idle(self, pick: int) -> None:
        if idle := self.pool._state.idle:
            idle[pick % len(idle)].connection.open = False

    def expire_idle(self, pick: int) -> None:
        pool, least = self.pool, self.options.min_size
        old = list(pool._state.idle)[: pick % 3 + 1]
        for entry in old:
            entry.since -= 10_000
        size, idle, many = pool._state.size, pool.idle, len(old)
        pool._idle_timer.close_idle(self.loop)
        assert pool.idle == idle - min(many, max(0, size - least))
        for entry in old:
            entry.since += 10_000  # those that may stay

    def next_pings(self, pick: int) -> None:
        self.ping_is = ("slow", "fine", "slow", "fail")[pick % 4]

    def write_off(self, pick: int) -> None:
        if user := self.told(pick, "holding"):
            keep_slot = pick % 2 == 1
            assert user.connection is not None
            if self.pool.write_off(user.connection, keep_slot):
                self.written_off += 1
                self.kept += keep_slot

    def use_or_free_the_slot_that_was_kept(self, pick: int) -> None:
        # Each of those who ask for a connection in this way may come to take one of the slots.
        asking = self.in_state("new", "waiting", "pinging", "opening")
        if self.kept > sum(user.on_kept_slot for user in asking):
            if pick % 2:
                self.users.append(User(len(self.users), self, pick % 3 == 0, on_kept_slot=True))
            else:
                self.kept -= 1
                self.pool.free_kept()

    def warm(self, pick: int) -> None:
        slow = [pick % 2 == 0, pick % 3 == 0, pick % 5 == 0]

        def open_() -> Connection:
            self.opening_ahead += 1
            try:
                if slow.pop() if slow else False:
                    gate: asyncio.Future[str] = self.loop.create_future()
                    self.warm_gates.append(gate)
                    if bridge.wait(gate) == "fail":
                        raise OSError("refused")
                return self.driver.open()
            finally:
                self.opening_ahead -= 1

        if not self.pool.closed:
            self.warming.append(self.loop.create_task(self.pool.warm(open_)))

    def finish_warming(self, pick: int) -> None:
        if self.warm_gates and not (gate := self.warm_gates.pop(0)).done():
            gate.set_result("fail" if pick % 4 == 3 else "fine")

    def cancel_warming(self, pick: int) -> None:
        if self.warming:
            self.warming[pick % len(self.warming)].cancel()

    def look(self, pick: int = 0) -> None:
        stats = self.pool.stats()
        state = self.pool._state
        assert (stats.in_use, stats.idle) == (self.pool.in_use, self.pool.idle)
        assert stats.idle == sum(entry.connection.open for entry in state.idle)
        assert stats.opened == len(self.driver.opened)
        assert sum(stats.closed.values()) == len(self.closed)
        assert stats.opened - len(self.closed) == len(state.entries)
        assert (stats.timeouts, stats.kills) == (self.timed_out, self.written_off)
        assert stats.refused == self.refused

    def grow_old(self, pick: int) -> None:
        if entries := list(self.pool._state.entries.values()):
            entries[pick % len(entries)].expires = 0.0

    def driver_fails(self, pick: int) -> None:
        self.driver.fail[("is_open", "is_clean", "close")[pick % 3]] = OSError("broken")

    def driver_works(self, pick: int) -> None:
        self.driver.fail.clear()

    def step(self, pick: int = 0) -> None:
        """Let the loop run for one iteration: what it has handed over is not accepted yet."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def turn(self, pick: int = 0) -> None:
        self.loop.run_until_complete(settle())
        if self.pool.waiting:
            assert self.pool.in_use == self.options.limit, "somebody waits though a slot is free"
            assert not self.pool.idle
        # First come, first served.
        in_front = [user for user in self.in_state("waiting") if user.on_kept_slot]
        waiting = [user.number for user in self.in_state("waiting") if not user.on_kept_slot]
        begun = [
            user.number
            for user in self.users
            if user.state not in ("new", "waiting") and not user.on_kept_slot
        ]
        last = max((n for n in begun if n in self.served), default=-1)
        assert all(number > last for number in waiting), (waiting, self.served)
        busy = [
            user
            for user in self.in_state("pinging", "opening", "holding", "resetting")
            if not self.is_written_off(user)
        ]
        assert self.pool.in_use == len(busy) + self.opening_ahead + self.pool._kept
        assert self.pool.waiting == len(in_front) + len(waiting)
        if not any(user.on_kept_slot for user in self.in_state("opening")):
            assert self.pool._kept == self.kept

    def is_written_off(self, user: User) -> bool:
        entry = self.pool._state.entries.get(id(user.connection))
        return user.state == "holding" and entry is not None and entry.place is WRITTEN_OFF

    @invariant()
    def bound_holds(self) -> None:
        if hasattr(self, "pool"):
            pool = self.pool
            assert pool.in_use >= 0
            assert pool.in_use + pool.idle <= self.options.limit
            assert pool.idle <= (0 if pool.closed else self.options.pool_size)
            opening = len(self.in_state("opening")) + self.opening_ahead
            alive = {c.number for c in self.driver.opened} - self.closed
            written_off = {
                entry.connection.number
                for entry in pool._state.entries.values()
                if entry.place is WRITTEN_OFF
            }
            assert len(alive - written_off) + opening + pool._kept <= self.options.limit
            if self.options.max_waiting >= 0:
                in_front = sum(user.on_kept_slot for user in self.in_state("waiting"))
                assert pool.waiting <= self.options.max_waiting + in_front
            assert not self.closed & set(self.holders), "closed under its user"

    @property
    def closed(self) -> set[int]:
        numbers = [connection.number for connection in self.driver.closed]
        assert len(numbers) == len(set(numbers)), "closed twice"
        return set(numbers)

    def teardown(self) -> None:
        try:
            self.driver.fail.clear()
            self.loop.run_until_complete(settle())
            while users := [user for user in self.users if user.state != "done"]:
                for user in users:
                    user.task.cancel()
                self.loop.run_until_complete(settle())
            for warming in self.warming:
                warming.cancel()
            self.loop.run_until_complete(settle())
            for _ in range(self.kept):
                self.pool.free_kept()
            for task in [*(user.task for user in self.users), *self.warming]:
                if not task.cancelled() and (error := task.exception()):
                    assert isinstance(error, OSError | PoolClosed), error
            if hasattr(self, "pool"):
                assert (self.pool.in_use, self.pool.waiting) == (0, 0)
                self.look()
                assert len(self.driver.opened) - len(self.closed) == self.pool.idle
                assert self.pool.stats().wait.count == self.lent
                assert self.pool.stats().hold.count == len(self.served)
                self.pool.close()
                assert len(self.driver.opened) == len(self.closed)
                assert not self.pool._state.entries
                assert self.pool._idle_timer._handle is None
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_random_histories(loop: str) -> None:
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")

    class Machine(PoolMachine):
        if loop == "uvloop":
            import uvloop

            factory = staticmethod(uvloop.new_event_loop)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=200,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
