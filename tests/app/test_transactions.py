"""A transaction that the database rolled back for another one's sake is run again."""

from __future__ import annotations

import asyncio

import pytest
from django.db import OperationalError, transaction

import greentor
from app.services.transactions import TRIES, retried
from tests.testapp.models import Counter


@greentor.green
def fill() -> list[int]:
    return [Counter.objects.create(name=name).pk for name in "ab"]


@greentor.green
def values() -> list[int]:
    return list(Counter.objects.order_by("pk").values_list("n", flat=True))


def increase(pk: int) -> None:
    counter = Counter.objects.select_for_update().get(pk=pk)
    counter.n += 1
    counter.save()


def test_of_two_transactions_that_deadlock_both_are_done_once(run, clean_tables):
    async def main():
        first, second = await fill()
        barrier = asyncio.Barrier(2)
        calls = []

        @retried
        def both(pk, then):
            calls.append(pk)
            increase(pk)
            if len(calls) <= 2:  # each has its first row, and now wants the other's
                greentor.await_(barrier.wait())
            increase(then)

        await asyncio.gather(
            greentor.spawn(both, first, second), greentor.spawn(both, second, first)
        )
        assert len(calls) == 3
        assert await values() == [2, 2]

    run(main)


@pytest.mark.parametrize(("number", "tries"), [(1213, TRIES), (1020, TRIES), (1205, 1)])
def test_only_what_time_mends_is_tried_again_and_not_for_ever(run, clean_tables, number, tries):
    calls = []

    @greentor.green
    @retried
    def fail():
        calls.append(Counter.objects.create(name="a"))
        raise OperationalError(number, "said by the test")

    async def main():
        with pytest.raises(OperationalError, match="said by the test"):
            await fail()
        assert await values() == []

    run(main)
    assert len(calls) == tries


def test_within_a_transaction_it_is_refused(run, clean_tables):
    """What is around it would be rolled back too, and not be run again."""

    @greentor.green
    def main():
        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            retried(Counter.objects.create)(name="a")

    run(main)
