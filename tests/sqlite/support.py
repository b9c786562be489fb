"""The database of these tests, `lite`, and what they ask of it."""

import asyncio
import time

from django.db import connections, transaction

from tests.noise import Noise
from tests.testapp.models import Counter

ALIAS = "lite"


def query(sql, params=None):
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall()


def counters():
    return Counter.objects.using(ALIAS)


def atomic():
    return transaction.atomic(using=ALIAS)


class Ticker:
    """Notes the longest that the loop was held up, less what the machine held up the process."""

    async def __aenter__(self):
        self.longest = 0.0
        self.noise = Noise()
        self.noise.__enter__()
        self.task = asyncio.create_task(self.tick())
        return self

    async def tick(self):
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.monotonic() - before)

    async def __aexit__(self, *exc_info):
        self.task.cancel()
        self.noise.__exit__(*exc_info)
        self.longest -= self.noise.longest
