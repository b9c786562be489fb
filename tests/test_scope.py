"""The books of scopes and frames, without a greenlet."""

import asyncio

import pytest

from greentor.scope import Frame, Scope, ScopeClosed


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def root(loop):
    return Frame(Scope("GET /books/"), loop)


# --- resources --------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_resources_are_released_last_in_first_out(force):
    scope, log = Scope("it"), []
    for key in "abc":
        scope.add_resource(key, lambda force, key=key: log.append((key, force)))
    scope.remove_resource("b")
    scope.remove_resource("never added")
    scope.close(force)
    assert log == [("c", force), ("a", force)]
    scope.close(force)
    assert len(log) == 2


def test_a_resource_added_again_is_released_once():
    scope, log = Scope("it"), []
    scope.add_resource("key", lambda force: log.append("first"))
    scope.add_resource("key", lambda force: log.append("second"))
    scope.close(False)
    assert log == ["second"]


def test_a_resource_that_a_release_adds_is_released_too():
    scope, log = Scope("it"), []

    def release(force):
        log.append("outer")
        assert not scope.closed
        scope.add_resource("inner", lambda force: log.append("inner"))

    scope.add_resource("outer", release)
    scope.close(False)
    assert log == ["outer", "inner"]
    assert scope.closed


def test_a_closed_scope_refuses_by_name():
    scope = Scope("GET /books/")
    scope.check_open()
    scope.locals[0] = {"x": 1}
    scope.close(False)
    assert scope.locals == {}
    assert repr(scope) == "<Scope 'GET /books/' closed>"
    for refused in (scope.check_open, lambda: scope.add_resource("key", print)):
        with pytest.raises(ScopeClosed, match=r"GET /books/ has ended.*greentor\.spawn\(\)"):
            refused()


def test_one_failure_does_not_keep_the_other_resources(caplog):
    scope, log = Scope("GET /books/"), []

    def broken(force):
        raise ValueError("broken release")

    scope.add_resource("last", log.append)
    scope.add_resource("broken", broken)
    scope.add_resource("first", log.append)
    scope.close(False)
    assert log == [False, False]
    assert "GET /books/" in caplog.text
    assert "broken release" in caplog.text


def test_an_interruption_hurries_the_rest_and_is_raised_at_the_end():
    scope, log = Scope("it"), []

    def interrupted(force):
        raise asyncio.CancelledError

    scope.locals[0] = {}
    scope.add_resource("last", log.append)
    scope.add_resource("interrupted", interrupted)
    scope.add_resource("first", log.append)
    with pytest.raises(asyncio.CancelledError):
        scope.close(False)
    assert log == [False, True]
    assert scope.closed
    assert scope.locals == {}


# --- frames -----------------------------------------------------------------------------------


def test_helpers_are_let_in_one_at_a_time_in_the_order_in_which_they_ask(root):
    assert root.ask() is None
    second, third = root.ask(), root.ask()
    assert root.has_queue
    root.give_back()
    assert second.result() is True
    assert not third.done()
    assert root.child
    root.give_back()
    assert third.result() is True
    root.give_back()
    assert not root.child
    assert root.ask() is None


def test_nobody_is_let_in_while_the_owner_is_busy(root):
    root.busy = True
    waiter = root.ask()
    root.give_back()
    assert not waiter.done()
    root.busy = False
    assert not waiter.done()
    root.grant()
    assert waiter.result() is True


def test_the_owner_goes_before_the_queue_and_nobody_overtakes(root, loop):
    root.ask()
    queued = root.ask()
    root.busy = True
    owner = root.owner_waiter = loop.create_future()
    root.give_back()
    assert owner.done()
    assert not queued.done()
    late = root.ask()
    root.busy = False
    assert root.ask() is not None, "a newcomer queues behind those who wait"
    root.grant()
    assert queued.result() is True
    assert not late.done()


def test_a_waiter_that_left_is_passed_over(root, loop):
    root.ask()
    first, second = root.ask(), root.ask()
    first.cancel()
    root.owner_waiter = loop.create_future()
    root.owner_waiter.cancel()
    root.give_back()
    assert second.result() is True
    assert root.child


def test_withdrawing_before_and_after_the_hand_over(root):
    root.ask()
    queued, handed, last = root.ask(), root.ask(), root.ask()
    root.withdraw(queued)
    assert not queued.done()
    root.give_back()
    assert handed.result() is True
    root.withdraw(handed)
    assert last.result() is True
    last_of_all = root.ask()
    root.close()
    assert last_of_all.result() is False
    root.withdraw(last_of_all)
    assert root.child, "it is still the turn of `last`"


def test_a_closed_frame_sends_its_queue_to_the_nearest_open_one(root, loop):
    helper = Frame(root.scope, loop, root)
    below = Frame(root.scope, loop, helper)
    below.ask()
    waiter = below.ask()
    below.close()
    assert waiter.result() is False
    assert below.nearest_open() is helper
    helper.close()
    assert below.nearest_open() is root
    root.close()
    with pytest.raises(ScopeClosed, match="GET /books/"):
        below.nearest_open()


def test_an_open_frame_of_a_closed_scope_accepts_nobody(root, loop):
    helper = Frame(root.scope, loop, root)
    root.close()
    assert helper.nearest_open() is helper
    root.scope.close(False)
    with pytest.raises(ScopeClosed):
        helper.nearest_open()


def test_a_closed_loop_is_told_nothing(root, loop):
    root.ask()
    waiter, owner = root.ask(), loop.create_future()
    waiter.add_done_callback(print)
    owner.add_done_callback(print)
    root.owner_waiter = owner
    loop.close()
    root.give_back()
    root.close()
    assert not waiter.done()
    assert not owner.done()
