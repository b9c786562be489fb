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
from greentor.pool import Pool, PoolClosed, PoolOptions, PoolTimeout
from tests.test_pool import Connection, FakeDriver, settle

OUTCOMES = ["clean", "dirty", "dirty and broken", "closed", "force", "wait"]
FAILURES = st.sampled_from([None, None, None, OSError("broken")])


class User:
    """A greenlet that takes a connection, keeps it until told, and gives it back."""

    def __init__(self, number: int, machine: "PoolMachine", slow: bool) -> None:
        self.number = number
        self.slow = slow  # to open
        self.state = "new"  # waiting, opening, holding, resetting, done
        self.connection: Connection | None = None
        self.machine = machine
        self.gate: asyncio.Future[Any] = machine.loop.create_future()
        self.task = machine.loop.create_task(bridge.run_in_scope(f"user {number}", self.live))

    def park(self) -> Any:
        """Wait to be told, and return what."""
        try:
            return bridge.wait(self.gate)
        finally:
            self.gate = self.machine.loop.create_future()

    def live(self) -> None:
        machine = self.machine
        self.state = "waiting"
        try:
            connection, _ = machine.pool.acquire(self.open)
            machine.accept(self, connection)
            force = self.hold(connection)
            machine.holders.pop(connection.number)
            self.state = "resetting"
            machine.resetting = self
            machine.pool.release(connection, force)
        except (PoolTimeout, PoolClosed, OSError):
            pass
        finally:
            machine.holders = {k: u for k, u in machine.holders.items() if u is not self}
            self.state = "done"

    def open(self) -> Connection:
        self.state = "opening"
        if self.slow and self.park() == "fail":
            raise OSError("refused")
        return self.machine.driver.open()

    def hold(self, connection: Connection) -> bool:
        self.state = "holding"
        try:
            how = self.park()
        except BaseException:
            self.machine.holders.pop(connection.number)
            self.machine.pool.release(connection, force=True)
            raise
        if how in ("dirty", "dirty and broken", "wait"):
            connection.clean = False
        if how == "dirty and broken":
            self.machine.broken.add(connection.number)
        if how == "wait":
            self.machine.waits.add(connection.number)
        if how == "closed":
            connection.open = False
        return bool(how == "force")


class Driver(FakeDriver):
    """Resets as the user that gives the connection back was told."""

    machine: "PoolMachine"

    def reset(self, connection: Connection) -> None:
        machine = self.machine
        if connection.number in machine.broken:
            raise OSError("lost")
        if connection.number in machine.waits:
            machine.waits.discard(connection.number)
            user = machine.resetting
            assert user is not None
            if user.park() == "fail":
                raise OSError("lost")
        connection.clean = True


def has(*states: str) -> Any:
    return lambda machine: machine.in_state(*states)


class PoolMachine(RuleBasedStateMachine):
    """The rules only start things; `step` and `turn` let the loop run, so that several can meet."""

    factory: Any = asyncio.new_event_loop

    def __init__(self) -> None:
        super().__init__()
        self.loop = type(self).factory()
        self.users: list[User] = []
        self.holders: dict[int, User] = {}
        self.broken: set[int] = set()
        self.waits: set[int] = set()
        self.resetting: User | None = None
        self.served: list[int] = []
        self.driver = Driver()
        self.driver.machine = self

    @initialize(size=st.integers(0, 3), overflow=st.integers(0, 2))
    def create(self, size: int, overflow: int) -> None:
        self.options = PoolOptions(size, overflow or (not size), pool_timeout=1000)
        self.pool: Pool[Any] = Pool("model", self.driver, self.options)

    def accept(self, user: User, connection: Connection) -> None:
        assert connection.open
        assert connection.clean
        assert connection.number not in self.holders, "lent to two at once"
        self.holders[connection.number] = user
        user.connection = connection
        self.served.append(user.number)

    def in_state(self, *states: str) -> list[User]:
        return [user for user in self.users if user.state in states]

    def tell(self, state: str, pick: int, what: str) -> None:
        if users := [user for user in self.in_state(state) if not user.gate.done()]:
            users[pick % len(users)].gate.set_result(what)

    @rule(slow=st.lists(st.booleans(), min_size=1, max_size=4))
    def arrive(self, slow: list[bool]) -> None:
        for each in slow:
            self.users.append(User(len(self.users), self, each))

    @precondition(has("opening"))
    @rule(pick=st.integers(0, 9), what=st.sampled_from(["fine", "fine", "fail"]))
    def finish_opening(self, pick: int, what: str) -> None:
        self.tell("opening", pick, what)

    @precondition(has("holding"))
    @rule(pick=st.integers(0, 9), what=st.sampled_from(OUTCOMES))
    def give_back(self, pick: int, what: str) -> None:
        self.tell("holding", pick, what)

    @precondition(has("resetting"))
    @rule(pick=st.integers(0, 9), what=st.sampled_from(["fine", "fail"]))
    def finish_reset(self, pick: int, what: str) -> None:
        self.tell("resetting", pick, what)

    @precondition(has("waiting", "opening", "holding", "resetting"))
    @rule(pick=st.integers(0, 9))
    def cancel(self, pick: int) -> None:
        users = self.in_state("waiting", "opening", "holding", "resetting")
        users[pick % len(users)].task.cancel()

    @precondition(lambda self: self.in_state("holding") and self.in_state("waiting"))
    @rule(pick=st.integers(0, 9), what=st.sampled_from(["clean", "closed"]))
    def give_back_and_cancel_the_one_who_is_served(self, pick: int, what: str) -> None:
        self.tell("holding", pick, what)
        self.step()
        if waiting := self.in_state("waiting"):
            waiting[0].task.cancel()

    @precondition(lambda self: self.pool.waiting)
    @rule(pick=st.integers(0, 9))
    def time_out(self, pick: int) -> None:
        if waiters := list(self.pool._waiters):
            self.pool._expire(waiters[pick % len(waiters)])

    @precondition(lambda self: self.pool.idle)
    @rule(pick=st.integers(0, 9))
    def die_idle(self, pick: int) -> None:
        if idle := self.pool._idle:
            idle[pick % len(idle)].open = False

    @rule(pick=st.integers(0, 9))
    def grow_old(self, pick: int) -> None:
        if opened := list(self.pool._opened):
            self.pool._opened[opened[pick % len(opened)]] -= 3601

    @rule(method=st.sampled_from(["is_open", "is_clean", "close"]), error=FAILURES)
    def driver_fails(self, method: str, error: Exception | None) -> None:
        self.driver.fail.pop(method, None)
        if error is not None:
            self.driver.fail[method] = error

    @precondition(lambda self: len(self.users) > 40)
    @rule()
    def close(self) -> None:
        self.pool.close()

    @rule()
    def step(self) -> None:
        """Let the loop run for one iteration: what it has handed over is not accepted yet."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    @rule()
    def turn(self) -> None:
        self.loop.run_until_complete(settle())
        if self.pool.waiting:
            assert self.pool.in_use == self.options.limit, "somebody waits though a slot is free"
            assert not self.pool.idle
        # First come, first served.
        waiting = [user.number for user in self.in_state("waiting")]
        begun = [u.number for u in self.users if u.state not in ("new", "waiting")]
        last = max((n for n in begun if n in self.served), default=-1)
        assert all(number > last for number in waiting), (waiting, self.served)
        busy = self.in_state("opening", "holding", "resetting")
        assert self.pool.in_use == len(busy)
        assert self.pool.waiting == len(waiting)

    @invariant()
    def bound_holds(self) -> None:
        if hasattr(self, "pool"):
            pool = self.pool
            assert pool.in_use >= 0
            assert pool.in_use + pool.idle <= self.options.limit
            assert pool.idle <= self.options.pool_size
            opening = len(self.in_state("opening"))
            assert len({c.number for c in self.driver.opened} - self.closed) + opening <= (
                self.options.limit
            )
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
            while users := self.in_state("new", "waiting", "opening", "holding", "resetting"):
                for user in users:
                    user.task.cancel()
                self.loop.run_until_complete(settle())
            for user in self.users:
                if not user.task.cancelled():
                    user.task.exception()
            if hasattr(self, "pool"):
                assert (self.pool.in_use, self.pool.waiting) == (0, 0)
                assert len(self.driver.opened) - len(self.closed) == self.pool.idle
                assert len(self.pool._opened) == self.pool.idle
                assert not self.pool._lent
                self.pool.close()
                assert len(self.driver.opened) == len(self.closed)
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
            stateful_step_count=80,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
