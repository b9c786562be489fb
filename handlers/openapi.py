"""The OpenAPI document of the JSON routes.

What it says of limits comes from where they are checked: the models' fields, the services, the handlers. That
it names each route and method, and no other, is tested; so are its schemas, against the running application:
``schemathesis run http://127.0.0.1:8000/api/openapi.json``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from app.models import EMAIL, LINE, USERNAME, AccessRecord, User, World
from app.services import users
from handlers import base, crypto, sleep
from handlers.base import JSONHandler

Schema = dict[str, Any]


class OpenAPI(JSONHandler):
    def get(self) -> None:
        self.write_json(document())


# --- schemas ----------------------------------------------------------------------------------


def text(model: Any, field: str, pattern: str | None = None) -> Schema:
    """Return the schema of a text column."""
    schema: Schema = {"type": "string", "maxLength": model._meta.get_field(field).max_length}
    if pattern is not None:
        schema["pattern"] = f"^(?:{pattern})$"
    return schema


def obj(required: bool = True, **properties: Schema) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required else [],
        "additionalProperties": False,
    }


def array(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def page_of(items: Schema) -> Schema:
    """Return the schema of what `JSONHandler.write_page` writes."""
    path: Schema = {"type": "string", "format": "uri-reference"}
    path_or_null = {**path, "type": ["string", "null"]}
    return obj(
        items=array(items, maxItems=base.MAX_PAGE_SIZE),
        page=COUNT,
        size=COUNT,
        pages=COUNT,
        total=COUNT,
        links=obj(first=path, prev=path_or_null, next=path_or_null, last=path),
    )


COUNT: Schema = {"type": "integer", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}
WORLD = obj(
    id={"type": "integer", "minimum": 1, "maximum": World.COUNT}, randomNumber={"type": "integer"}
)
INPUT = {
    "username": text(User, "username", USERNAME),
    "email": text(User, "email", EMAIL),
    "password": {
        "type": "string",
        "minLength": users.MIN_PASSWORD,
        "maxLength": users.MAX_PASSWORD,
        "writeOnly": True,
    },
    "full_name": text(User, "full_name", LINE),
}
INDICATORS = (
    "sma",
    "ema",
    "rsi",
    "macd",
    "macd_signal",
    "macd_histogram",
    "bollinger_upper",
    "bollinger_middle",
    "bollinger_lower",
)
FIELDS: Schema = {"type": "object", "additionalProperties": array({"type": "string"})}
SCHEMAS: dict[str, Schema] = {
    "User": obj(
        id=COUNT,
        username=INPUT["username"],
        email=INPUT["email"],
        full_name=INPUT["full_name"],
        joined=TIME,
    ),
    "NewUser": {**obj(**INPUT), "required": list(users.REQUIRED)},
    "UserChanges": obj(required=False, **INPUT),
    "Candle": obj(
        time=TIME,
        close={"type": "number"},
        **{name: {"type": ["number", "null"]} for name in INDICATORS},
    ),
    "AccessRecord": obj(
        id=COUNT,
        time=TIME,
        method=text(AccessRecord, "method"),
        path=text(AccessRecord, "path"),
        query=text(AccessRecord, "query"),
        status={"type": "integer"},
        address=text(AccessRecord, "address"),
        user_agent=text(AccessRecord, "user_agent"),
        referrer=text(AccessRecord, "referrer"),
    ),
    "World": WORLD,
    "Error": {
        **obj(
            error={"type": "string"},
            fields={**FIELDS, "description": "what is wrong, by the name of the field"},
            items={
                "description": "the same for a list, by the index",
                **array(obj(index=COUNT, fields=FIELDS)),
            },
        ),
        "required": ["error"],
    },
}


# --- operations -------------------------------------------------------------------------------


def parameter(name: str, schema: Schema, *, where: str = "query", **more: Any) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, **more}


def integer(name: str, low: int, high: int, default: int | None = None, **more: Any) -> Schema:
    """Return a parameter that `Handler.get_integer` reads."""
    schema: Schema = {"type": "integer", "minimum": low, "maximum": high}
    if default is None:
        return parameter(name, schema) | {"required": True}
    return parameter(name, {**schema, "default": default}, **more)


def content(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def operation(
    summary: str,
    answer: Schema | None,
    *,
    status: int = 200,
    parameters: tuple[Schema, ...] = (),
    body: Schema | None = None,
    headers: Schema | None = None,
    refusals: tuple[int, ...] = (),
) -> Schema:
    """Return an operation; whatever goes wrong is answered by an Error."""
    good: Schema = {"description": summary}
    if answer is not None:
        good["content"] = content(answer)
    if headers is not None:
        good["headers"] = headers
    bad = {"description": "an error", "content": content(ref("Error"))}
    found: Schema = {
        "summary": summary,
        "responses": {str(status): good, **{str(s): bad for s in refusals}, "default": bad},
    }
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {"required": True, "content": content(body)}
    return found


PAGE = (
    integer("page", 1, base.MAX_PAGE, 1, description="behind the last page there is nothing: 404"),
    integer("size", 1, base.MAX_PAGE_SIZE, base.PAGE_SIZE),
)
LOCATION = {"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
USER_ID = parameter("id", {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}, where="path")
MS = ("ms", 0, sleep.MAX_MS)
QUERIES = parameter(
    "queries", {"type": "string"}, description="1 to 500; what is no number, or less, counts as 1"
)


@cache
def document() -> Schema:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "greentor's reference application", "version": "1.0.0"},
        "servers": [{"url": "/"}],
        "paths": paths(),
        "components": {"schemas": SCHEMAS},
    }


def paths() -> Schema:
    user = ref("User")
    return {
        "/api/openapi.json": {"get": operation("This document", {"type": "object"})},
        "/api/users": {
            "get": operation(
                "The users, page by page", page_of(user), parameters=PAGE, refusals=(400, 404)
            ),
            "post": operation(
                "Create a user",
                user,
                status=201,
                body=ref("NewUser"),
                headers=LOCATION,
                refusals=(400, 409),
            ),
        },
        "/api/users/bulk": {
            "post": operation(
                "Create all of these users, or none",
                obj(items=array(user)),
                status=201,
                body=array(ref("NewUser"), minItems=1, maxItems=users.MAX_BULK),
                refusals=(400, 409),
            )
        },
        "/api/users/{id}": {
            "parameters": [USER_ID],
            "get": operation("A user", user, refusals=(404,)),
            "put": operation("Replace a user", user, body=ref("NewUser"), refusals=(400, 404, 409)),
            "patch": operation(
                "Change a user", user, body=ref("UserChanges"), refusals=(400, 404, 409)
            ),
            "delete": operation("Delete a user", None, status=204, refusals=(404,)),
        },
        "/api/crypto/technical-indicators/{symbol}/": {
            "get": operation(
                "The last candles of a token, with technical indicators",
                obj(
                    symbol={"type": "string"},
                    name={"type": "string"},
                    candles=array(ref("Candle"), maxItems=crypto.MAX_LIMIT),
                ),
                parameters=(
                    parameter(
                        "symbol",
                        {"type": "string", "minLength": 1, "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
                        where="path",
                        example="BTCUSDT",
                        description="in upper or lower case, with a quote currency or without",
                    ),
                    integer("limit", 1, crypto.MAX_LIMIT, 100),
                    integer("period", 2, crypto.MAX_PERIOD, 20),
                    integer("rsi_period", 2, crypto.MAX_PERIOD, 14),
                ),
                refusals=(400, 404),
            )
        },
        "/api/access-records": {
            "get": operation(
                "The page views, the latest first",
                page_of(ref("AccessRecord")),
                parameters=PAGE,
                refusals=(400, 404),
            )
        },
        "/api/access-records/paths": {
            "get": operation(
                "How often each path was viewed",
                page_of(obj(path=text(AccessRecord, "path"), views=COUNT, last=TIME)),
                parameters=PAGE,
                refusals=(400, 404),
            )
        },
        "/json": {"get": operation("A greeting", obj(message={"type": "string"}))},
        "/db": {"get": operation("A random row", ref("World"))},
        "/queries": {"get": operation("Random rows", array(ref("World")), parameters=(QUERIES,))},
        "/updates": {
            "get": operation("Change random rows", array(ref("World")), parameters=(QUERIES,))
        },
        "/sleep": {
            "get": operation(
                "Sleep in the database", obj(ms=COUNT), parameters=(integer(*MS),), refusals=(400,)
            )
        },
        "/echo": {
            "get": operation(
                "Send a token through the database",
                obj(token={"type": "string"}),
                parameters=(
                    parameter("token", {"type": "string"}) | {"required": True},
                    integer(*MS, 0),
                    integer("atomic", 0, 1, 0),
                ),
                refusals=(400,),
            )
        },
    }
