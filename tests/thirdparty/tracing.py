"""Sentry and OpenTelemetry: do they see the queries, and whose do they say they are?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import sentry_sdk
from django.db import connection
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.integrations.tornado import TornadoIntegration
from sentry_sdk.transport import Transport
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from greentor.web import BaseRequestHandler
from tests.thirdparty.measure import WONT, probe
from tests.thirdparty.models import Book, empty_tables


class Envelopes:
    """What Sentry would have sent."""

    def __init__(self):
        kept = self.kept = []

        class Offline(Transport):
            def capture_envelope(self, envelope):
                kept.append(envelope)

        self.transport = Offline

    def read(self, get):
        """Return what ``get`` finds in the items: events, or transactions."""
        items = [item for envelope in self.kept for item in envelope.items]
        return [found for item in items if (found := getattr(item, get)())]


def start_sentry():
    empty_tables()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=envelopes.transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[DjangoIntegration(), TornadoIntegration()],
    )


envelopes = Envelopes()


@probe(
    "tracing",
    "Sentry, `DjangoIntegration` and `TornadoIntegration`",
    "sentry-sdk",
    setup=start_sentry,
    advice="errors and spans of queries, each request's its own",
)
async def sentry():
    class Books(BaseRequestHandler):
        def get(self):
            sentry_sdk.set_tag("book", self.get_argument("book"))
            Book.objects.count()
            raise ValueError(self.get_argument("book"))

    [sock] = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/", Books)]))
    server.add_sockets([sock])
    client = AsyncHTTPClient(force_instance=True)
    address = f"http://127.0.0.1:{sock.getsockname()[1]}/?book="
    try:
        fetches = [client.fetch(f"{address}{n}", raise_error=False) for n in range(5)]
        await asyncio.gather(*fetches)
    finally:
        server.stop()
        client.close()
    events = envelopes.read("get_event")
    told = {(event["exception"]["values"][-1]["value"], event["tags"]["book"]) for event in events}
    assert told == {(str(n), str(n)) for n in range(5)}, told
    traces = envelopes.read("get_transaction_event")
    spans = [[span["op"] for span in trace["spans"]] for trace in traces]
    assert len(spans) == 5, spans
    assert all("db" in ops for ops in spans), spans


def spans_of_a_query():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return SimpleNamespace(provider=provider, exporter=exporter)


@probe(
    "tracing",
    "OpenTelemetry, PyMySQL instrumentation",
    "opentelemetry-instrumentation-pymysql",
    setup=empty_tables,
    expect=WONT,
    advice="it wraps `pymysql.connect()`, which is not called; use `execute_wrapper`, see below",
)
def opentelemetry_pymysql():
    from opentelemetry.instrumentation.pymysql import PyMySQLInstrumentor

    trial = spans_of_a_query()
    PyMySQLInstrumentor().instrument(tracer_provider=trial.provider)
    try:
        Book.objects.count()
    finally:
        PyMySQLInstrumentor().uninstrument()
    names = [span.name for span in trial.exporter.get_finished_spans()]
    if names != ["SELECT"]:
        raise AssertionError(f"no span of the query: {names}")


@probe(
    "tracing",
    "OpenTelemetry's tracer in `connection.execute_wrapper`",
    "opentelemetry-sdk",
    setup=empty_tables,
)
def opentelemetry_wrapper():
    trial = spans_of_a_query()
    tracer = trial.provider.get_tracer("trial")

    def span(execute, sql, params, many, context):
        with tracer.start_as_current_span(sql.split()[0]):
            return execute(sql, params, many, context)

    with tracer.start_as_current_span("request"), connection.execute_wrapper(span):
        Book.objects.count()
    query, request = trial.exporter.get_finished_spans()
    assert query.name == "SELECT"
    assert query.parent.span_id == request.context.span_id
