"""The users of a pool in its random histories: greenlets that do at each point what they are told."""

import asyncio
from typing import TYPE_CHECKING, Any

from greentor import bridge
from greentor.pool import PoolClosed, PoolFull, PoolTimeout
from tests.test_pool import Connection, FakeDriver

if TYPE_CHECKING:
    from tests.test_pool_model import PoolMachine


class User:
    """A greenlet that takes a connection, keeps it until told, and gives it back."""

    def __init__(
        self, number: int, machine: "PoolMachine", slow: bool, on_kept_slot: bool = False
    ) -> None:
        self.number = number
        self.slow = slow  # to open
        self.on_kept_slot = on_kept_slot
        self.pinged = False
        self.state = "new"  # waiting, pinging, opening, holding, resetting, done
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
        machine.by_task[asyncio.current_task()] = self
        self.state = "waiting"
        try:
            if self.on_kept_slot:
                connection, _, took = machine.pool.acquire_kept(self.open, 1000)
                machine.kept -= took
                machine.lent += not took
            else:
                expected = machine.fit_to_lend()
                connection, _ = machine.pool.acquire(self.open)
                machine.lent += 1
                if expected:
                    assert connection is expected[0], "not the connection that was used last"
            machine.accept(self, connection)
            force = self.hold(connection)
            machine.holders.pop(connection.number)
            self.state = "resetting"
            machine.resetting = self
            machine.pool.release(connection, force)
        except PoolFull:
            machine.refused += 1
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

    def ping(self) -> str:
        self.state = "pinging"
        self.pinged = True
        how = self.park()
        self.state = "waiting"
        return str(how)

    def hold(self, connection: Connection) -> bool:
        self.state = "holding"
        try:
            how = self.park()
        except BaseException:
            self.machine.holders.pop(connection.number)
            self.machine.pool.release(connection, force=True)
            raise
        if how in ("dirty", "dirty and broken", "dirty for good", "wait"):
            connection.clean = False
        if how == "dirty for good":
            self.machine.stained.add(connection.number)
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
        connection.clean = connection.number not in machine.stained

    def ping(self, connection: Connection, timeout: float) -> None:
        machine = self.machine
        how = machine.ping_is
        if how == "slow":
            how = machine.by_task[asyncio.current_task()].ping()
        if how == "fail":
            raise OSError("no answer")
