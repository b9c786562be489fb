"""`greentor.local`: what ``threading.local`` is to threads, for the scopes of greenlets."""

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from greenlet import greenlet

from greentor import ScopeClosed, await_, green, local, sleep, spawn, thread
from greentor.bridge import current_scope


class Value:
    """Something that a weak reference can watch."""


# --- whose attributes they are ----------------------------------------------------------------


def test_each_greenlet_has_its_own_attributes(run):
    store = local()

    @green
    def function(number):
        assert not hasattr(store, "x")
        store.x = number
        sleep(0)
        assert store.x == number
        return await_(inner())

    @green
    async def inner():
        await asyncio.sleep(0)
        return store.x

    async def main():
        store.x = "of the thread"
        tasks = [asyncio.create_task(function(number)) for number in range(20)]
        assert await asyncio.gather(*tasks) == list(range(20))
        assert store.x == "of the thread"
        assert await spawn(hasattr, store, "x") is False

    run(main)


def test_helpers_and_tasks_that_inherited_the_scope_share_them(run):
    store = local()

    async def child():
        assert store.x == "of the owner"
        store.y = "of the task"
        await green(helper)()

    def helper():
        assert (store.x, store.y) == ("of the owner", "of the task")
        store.z = "of the helper"

    @green
    async def owner():
        store.x = "of the owner"
        await asyncio.create_task(child())
        assert (store.y, store.z) == ("of the task", "of the helper")
        assert await asyncio.create_task(spawned()) is False

    async def spawned():
        return await spawn(hasattr, store, "x")

    run(owner)


def test_a_task_left_behind_is_refused(run):
    store = local()

    async def left_behind():
        await gate.wait()
        with pytest.raises(ScopeClosed):
            store.x  # noqa: B018
        with pytest.raises(ScopeClosed):
            store.x = 1

    @green
    async def owner():
        store.x = 1
        return [asyncio.create_task(left_behind())]

    async def main():
        nonlocal gate
        gate = asyncio.Event()
        (task,) = await owner()
        gate.set()
        await task

    gate = None
    run(main)


def test_plain_threads_and_foreign_greenlets_have_those_of_their_thread(run):
    store = local()

    def in_thread():
        assert not hasattr(store, "x")
        store.x = "of the worker"
        assert store.x == "of the worker"
        return threading.get_ident()

    @green
    def function():
        store.x = "of the scope"
        assert thread(in_thread) != threading.get_ident()
        assert greenlet(lambda: store.x).switch() == "of the thread"
        greenlet(lambda: setattr(store, "y", "of the thread")).switch()
        assert not hasattr(store, "y")
        assert store.x == "of the scope"

    async def main():
        store.x = "of the thread"
        await function()
        assert store.y == "of the thread"

    run(main)
    assert store.x == "of the thread"
    assert greenlet(lambda: store.x).switch() == "of the thread"


def test_each_instance_has_its_own_attributes(run):
    """The 2016 code had one dict for all."""
    one, two = local(), local()

    @green
    def function():
        one.x = 1
        assert not hasattr(two, "x")
        two.x = 2
        assert (one.x, two.x) == (1, 2)
        del one.x
        assert two.__dict__ == {"x": 2}

    run(function)
    assert not hasattr(one, "x")


# --- when they are freed ----------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["result", "exception", "cancel", "close"])
def test_values_are_freed_with_the_scope(run, ending):
    store = local()

    def function():
        store.value = value = Value()
        watched.append(weakref.ref(value))
        del value
        if ending == "exception":
            raise KeyError
        if ending != "result":
            await_(asyncio.get_running_loop().create_future())

    async def main():
        if ending == "close":
            coroutine = green(function)()
            coroutine.send(None)._asyncio_future_blocking = False
            coroutine.close()
        else:
            task = asyncio.create_task(green(function)())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert watched[0]() is None

    watched = []
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


def test_values_are_there_while_resources_are_released(run):
    store = local()
    seen = []

    @green
    def function():
        store.x = "there"
        current_scope().add_resource("it", lambda force: seen.append(store.x))

    run(function)
    assert seen == ["there"]


def test_an_instance_that_is_deleted_takes_its_attributes_out_of_every_scope(run):
    stores = [local()]
    watched = []

    @green
    def function(gate):
        stores[0].value = value = Value()
        watched.append(weakref.ref(value))
        del value
        await_(gate)
        assert current_scope().locals == {}

    async def main():
        gate = asyncio.Event()
        tasks = [asyncio.create_task(function(gate.wait())) for _ in range(3)]
        while len(watched) < 3:
            await asyncio.sleep(0)
        stores[0].value = value = Value()  # the thread's
        watched.append(weakref.ref(value))
        del value
        stores.clear()
        assert [ref() for ref in watched] == [None] * 4
        gate.set()
        await asyncio.gather(*tasks)

    run(main)


def test_attributes_of_a_thread_are_freed_with_it():
    store = local()
    watched = []

    def in_thread():
        store.value = value = Value()
        watched.append(weakref.ref(value))

    other = threading.Thread(target=in_thread)
    other.start()
    other.join(10)
    gc.collect()
    assert watched[0]() is None


def test_an_instance_of_a_thread_that_is_deleted_frees_its_attributes():
    store = local()
    store.value = value = Value()
    watched = weakref.ref(value)
    del value, store
    gc.collect()
    assert watched() is None


# --- as threading.local, literally ------------------------------------------------------------


def outcome(function, *args):
    """Return what a call does, in words that both kinds of local share."""
    try:
        result = function(*args)
    except Exception as exc:
        return type(exc)
    return result if isinstance(result, str | int | list | dict | tuple | None) else type(result)


def behave(base, elsewhere):
    """Do everything that one does with a local; ``elsewhere`` calls a function in another place."""
    seen = []

    def note(function, *args):
        seen.append((sys._getframe(1).f_lineno, outcome(function, *args)))

    def look(obj, *names):
        for name in names:
            note(getattr, obj, name)
            note(hasattr, obj, name)
        note(lambda: dict(sorted(vars(obj).items())))
        seen.append(("seen at line", sys._getframe(1).f_lineno))

    class Plain(base):
        default = "of the class"

        def method(self):
            return self.default

        @property
        def doubled(self):
            return self.x * 2

        @doubled.setter
        def doubled(self, value):
            self.x = value // 2

        @property
        def read_only(self):
            return "read only"

    class WithInit(base):
        calls = 0

        def __init__(self, a, *, b=2):
            type(self).calls += 1
            self.a, self.b = a, b
            self.items = []

    class Slotted(base):
        __slots__ = ("shared",)

    class Fallback(base):
        def __getattr__(self, name):
            return f"no {name}"

    class Failing(base):
        tries = 0

        def __init__(self):
            type(self).tries += 1
            self.before = "set"
            if type(self).tries == 2:
                raise ValueError
            self.after = "set"

    class Child(WithInit):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.child = True

    class Custom(base):
        def __setattr__(self, name, value):
            super().__setattr__(name, ("custom", value))

        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            return value[1] if isinstance(value, tuple) else value

        def __delattr__(self, name):
            super().__delattr__(name + "x")

    # plain attributes
    obj = base()
    look(obj, "x")
    note(setattr, obj, "x", 1)
    look(obj, "x")
    elsewhere(lambda: look(obj, "x"))
    elsewhere(lambda: (note(setattr, obj, "y", 2), look(obj, "x", "y")))
    look(obj, "x", "y")
    note(delattr, obj, "x")
    note(delattr, obj, "x")
    look(obj, "x")
    note(lambda: obj.__dict__.update(z=3))
    look(obj, "z")
    note(setattr, obj, "__dict__", {})
    note(delattr, obj, "__dict__")
    look(obj, "z")
    note(lambda: obj == obj and obj != base() and len({obj, obj}) == 1)
    note(lambda: "z" in dir(obj))
    note(lambda: weakref.ref(obj)() is obj)

    # arguments
    note(base, 1)
    note(lambda: base(a=1))
    note(Plain, 1)
    note(WithInit)
    note(lambda: WithInit(1, c=1))

    # classes
    plain = Plain()
    look(plain, "default", "doubled", "read_only")
    note(plain.method)
    note(setattr, plain, "default", "of the instance")
    note(plain.method)
    elsewhere(lambda: note(plain.method))
    note(delattr, plain, "default")
    note(delattr, plain, "default")
    note(plain.method)
    note(setattr, plain, "doubled", 10)
    look(plain, "x", "doubled")
    elsewhere(lambda: look(plain, "x", "doubled"))
    note(setattr, plain, "read_only", 1)
    note(delattr, plain, "read_only")
    note(delattr, plain, "doubled")
    note(setattr, plain, "method", "shadowed")
    look(plain, "method")
    note(lambda: vars(plain).update(doubled="hidden by the property"))
    look(plain, "doubled")
    note(setattr, plain, "__dict__", {})
    note(delattr, plain, "__dict__")
    look(plain, "x")

    # __init__ runs again elsewhere, once
    with_init = WithInit(1, b=3)
    look(with_init, "a", "b", "items")
    with_init.items.append(1)
    for _ in range(2):
        elsewhere(lambda: (look(with_init, "a", "b", "items"), with_init.items.append(2)))
    elsewhere(lambda: note(setattr, with_init, "a", "elsewhere"))
    elsewhere(lambda: note(delattr, with_init, "a"))
    look(with_init, "a", "items")
    note(lambda: WithInit.calls)
    child = Child(5)
    elsewhere(lambda: look(child, "a", "child"))

    # an __init__ that fails elsewhere is tried again
    failing = Failing()

    def try_again():
        note(getattr, failing, "before")
        note(getattr, failing, "after")
        note(lambda: Failing.tries)

    elsewhere(try_again)
    look(failing, "before", "after")

    # slots are shared, as the class says
    slotted = Slotted()
    note(getattr, slotted, "shared")
    note(setattr, slotted, "shared", "everywhere")
    elsewhere(lambda: look(slotted, "shared"))
    elsewhere(lambda: note(delattr, slotted, "shared"))
    note(getattr, slotted, "shared")
    note(setattr, slotted, "own", 1)
    look(slotted, "own")

    # attribute hooks
    fallback = Fallback()
    note(getattr, fallback, "x")
    note(setattr, fallback, "x", 1)
    note(getattr, fallback, "x")
    elsewhere(lambda: note(getattr, fallback, "x"))
    custom = Custom()
    note(setattr, custom, "ax", 1)
    look(custom, "ax")
    note(delattr, custom, "a")
    look(custom, "ax")
    return seen


def in_a_thread(function):
    failed = []

    def call():
        try:
            function()
        except BaseException as exc:
            failed.append(exc)

    other = threading.Thread(target=call)
    other.start()
    other.join(10)
    assert failed == []


def expected():
    return behave(threading.local, in_a_thread)


def test_as_threading_local_in_threads():
    assert behave(local, in_a_thread) == expected()


def test_as_threading_local_between_a_coroutine_and_a_greenlet(run):
    def in_a_greenlet(function):
        coroutine = green(function)()
        with pytest.raises(StopIteration):
            coroutine.send(None)

    async def main():
        return behave(local, in_a_greenlet)

    assert run(main) == expected()


def test_as_threading_local_between_two_greenlets(run):
    @green
    def function():
        return behave(local, lambda other: await_(spawn(other)))

    assert run(function) == expected()


def test_as_threading_local_between_a_greenlet_and_a_thread(run):
    @green
    def function():
        return behave(local, in_a_thread)

    assert run(function) == expected()
