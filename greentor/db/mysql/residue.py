"""What a statement leaves in its session, told from its text before it is sent.

COM_RESET_CONNECTION takes back all of it but the schema and the role: variables, user variables, temporary
tables, the locks of ``GET_LOCK`` and ``LOCK TABLES``, prepared statements, handlers, an open XA transaction.

Invariants
- Whoever is not sure says that something is left: an unknown first word is `LASTS`.
- A statement that is ordinary by its first word is cleared by looking for what stands around four
  characters, without which it can leave nothing: ``@`` (a user variable), ``!`` (an executable comment),
  ``(`` (``GET_LOCK``), ``;`` (another statement). That is a fraction of a microsecond for each query.
- What stands in a string, a quoted name or a comment counts for nothing.
- What a stored function or a trigger does cannot be told from the text: that is what ``reset="always"``
  is for.
"""

from __future__ import annotations

import re

#: a reset takes it back
RESETS = 1
#: the schema may be another one: a reset leaves that, and it has to be chosen again
SCHEMA = 2
#: it ends with the connection only
LASTS = 4

#: the first six characters of what most statements begin with, as Django writes them
ORDINARY = frozenset(
    word[:6]
    for word in (
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "REPLACE",
        "SAVEPOINT",
        "RELEASE",
        "ROLLBACK",
    )
)

_words = re.compile(r"\w+").findall
_ORDINARY_WORDS = frozenset(
    _words(
        "ALTER ANALYZE BEGIN CHECK CHECKSUM COMMIT CREATE DELETE DESC DESCRIBE DO DROP EXPLAIN FLUSH GRANT"
        " HELP INSERT KILL LOAD OPTIMIZE RELEASE RENAME REPAIR REPLACE REVOKE ROLLBACK SAVEPOINT SELECT SHOW"
        " START TABLE TRUNCATE UNLOCK UPDATE VALUES WITH"
    )
)
_RESETTABLE_WORDS = frozenset(_words("DEALLOCATE GET HANDLER LOCK PREPARE SET XA"))

_BEFORE_VARIABLES = ("INTO", "")

_FLAGS = re.DOTALL
_QUOTED = r"""(?P<string>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")"""
_QUOTED_PLAINLY = r"""(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")"""  # NO_BACKSLASH_ESCAPES
_REST = (
    r"|(?P<name>`(?:[^`]|``)*`)"
    r"|(?P<executable>/\*M?!\d*)|/\*.*?(?:\*/|\Z)|\*/"
    r"|(?:--(?=\s|\Z)|\#)[^\n]*"
)
_tokens = re.compile(_QUOTED + _REST, _FLAGS)
_tokens_plainly = re.compile(_QUOTED_PLAINLY + _REST, _FLAGS)

_first = re.compile(r"[\s({]*([A-Z_]\w*)?")
_leaves_anyhow = re.compile(r":=|\bINTO\s*@|\bGET_LOCK\b|^\s*\(*\s*LOAD\b.*@", _FLAGS)
_temporary = re.compile(r"CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY\b")
_lasting = re.compile(r"BEGIN\s+NOT\b|FLUSH\b.*\b(?:READ\s+LOCK|FOR\s+EXPORT)\b", _FLAGS)
_for_one_statement = re.compile(r"[\s(]*SET\s+STATEMENT\b.*?\bFOR\b(.*)", _FLAGS)
_role = re.compile(r"\bROLE\b")


def is_ordinary(sql: str, several: bool = False) -> bool:
    """Tell, at little cost, that ``sql`` leaves nothing; False says that it has to be looked at closely."""
    return (
        sql[:6] in ORDINARY
        and not ("@" in sql and _may_assign(sql))
        and not ("!" in sql and ("/*!" in sql or "/*M!" in sql))
        and not ("(" in sql and "GET_LOCK" in sql.upper())
        and not (several and ";" in sql)
    )


def _may_assign(sql: str) -> bool:
    """Tell whether one of the ``@`` may be that of ``@a := ...`` or of ``INTO @a``."""
    if ":=" in sql:
        return True
    if sql[:6] == "SELECT":  # the others know no INTO
        for part in sql.split("@")[:-1]:
            end = part[-40:]
            word = end.rstrip()
            if (
                word[-4:].upper() in _BEFORE_VARIABLES
                or word[-2:] == "*/"
                or "\n" in end[len(word) :]
            ):
                return True
    return False


def residue(sql: str, several: bool = False, backslashes: bool = True) -> int:
    """Return what ``sql`` leaves: 0, or `RESETS`, `SCHEMA` and `LASTS` added up.

    ``several``: the connection takes several statements at once. ``backslashes``: they escape in strings,
    which is so unless the sql_mode is NO_BACKSLASH_ESCAPES.
    """
    text = (_tokens if backslashes else _tokens_plainly).sub(_blank, sql).upper()
    if not several:
        return _of_one(text)
    found = 0
    for statement in text.split(";"):
        if statement.strip():
            found |= _of_one(statement)
    return found


def _blank(token: re.Match[str]) -> str:
    """Leave of a string its quotes, of a name itself if it may be a function's, of comments a space."""
    kind = token.lastgroup
    if kind == "string":
        return "''"
    if kind == "name":
        return "GET_LOCK" if token.group().upper() == "`GET_LOCK`" else "``"
    return " "


def _of_one(text: str) -> int:
    if one := _for_one_statement.match(text):  # its variables have their former values after it
        return _of_one(one.group(1))
    first = _first.match(text)
    assert first is not None
    word = first.group(1) or ""
    found = RESETS if _leaves_anyhow.search(text) else 0
    if word in _ORDINARY_WORDS:
        statement = text[first.start(1) :]
        if _lasting.match(statement):
            found |= LASTS
        elif _temporary.match(statement):
            found |= RESETS
    elif word in _RESETTABLE_WORDS:
        found |= RESETS
        if word == "SET" and _role.search(text):
            found |= LASTS
    elif word in ("CALL", "USE"):  # a role that a procedure has set the server itself takes back
        found |= RESETS | SCHEMA
    elif word:
        found |= LASTS
    return found
