"""What docs/handlers.md says of handlers that are not greentor's."""

import asyncio

import pytest
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

import greentor
from tests.test_web import Served
from tests.testapp.models import Author
from tests.waiting import await_until

pytestmark = pytest.mark.usefixtures("clean_tables")


def test_a_plain_websocket_with_green_methods_may_use_the_orm(run):
    left = []

    class Plain(WebSocketHandler):
        @greentor.green
        def on_message(self, message):
            self.write_message(f"{message}: {Author.objects.count()}")

        def on_close(self):
            greentor.spawn(note)

    def note():
        left.append(Author.objects.count())

    async def main():
        left.clear()
        served = Served(Application([("/socket", Plain)]))
        try:
            socket = await websocket_connect(f"ws://127.0.0.1:{served.port}/socket")
            await socket.write_message("authors")
            assert await asyncio.wait_for(socket.read_message(), 10) == "authors: 0"
            socket.close()
            await await_until(lambda: left == [0])
        finally:
            served.client.close()
            served.server.stop()
            await served.server.close_all_connections()

    run(main)
