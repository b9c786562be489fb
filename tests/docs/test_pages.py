"""What the pages quote is what the code says."""

import ast
import dataclasses
import re

import pytest

import greentor
from greentor.pool import PoolOptions
from tests.docs.blocks import DOCS

ROOT = DOCS.parent


def words(text: str) -> str:
    return " ".join(text.split())


def patterns() -> list[re.Pattern[str]]:
    """Return every string in greentor's code as a pattern; what an f-string inserts may be anything."""
    found = []
    for path in (ROOT / "greentor").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node]
            else:
                continue
            constant = [p.value if isinstance(p, ast.Constant) else None for p in parts]
            if sum(len(c.strip()) for c in constant if c) >= 12:
                text = "".join(
                    ".*" if c is None else re.escape(words(f"|{c}|")[1:-1]) for c in constant
                )
                found.append(re.compile(re.sub(r"%\S*[sf]", ".*", text)))
    return found


MESSAGES = [
    words(text)
    for text in re.findall(r"^```text\n(.*?)^```$", (DOCS / "errors.md").read_text(), re.M | re.S)
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_message_is_one_of_the_code(message):
    text = message.partition(": ")[2]
    # A message may be put together of two: the longest string must make up most of it.
    best = max((m.end() - m.start() for p in patterns() if (m := p.search(text))), default=0)
    assert best > 0.6 * len(text), f"nothing in greentor says {text!r}"


@pytest.mark.parametrize("page", ["README.md", "docs/connections.md"])
def test_options_of_the_pool(page):
    rows = re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", (ROOT / page).read_text(), re.M)
    expected = {field.name: str(field.default) for field in dataclasses.fields(PoolOptions)}
    assert dict(rows) == {**expected, "hold": '"request"'}


def test_reference_lists_every_public_name():
    text = (DOCS / "reference.md").read_text()
    named = set(re.findall(r"^\.\. auto\w+:: (\w+)(?:\(|$)", text, re.M))
    assert set(greentor.__all__) <= named
