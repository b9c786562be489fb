"""What the pages quote is what the code says."""

import ast
import dataclasses
import re

import pytest

import greentor
from greentor import checks, db, pool, serving, testing, web
from greentor.pool import PoolOptions
from greentor.pool.stats import CLOSE_REASONS
from tests.docs.blocks import DOCS

ROOT = DOCS.parent
PACKAGES = (db, pool, serving, testing, web)


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
                found.append(re.compile(re.sub(r"%[\d.\\]*[dfgrs]", ".*", text)))
    return found


MESSAGES = [
    words(text)
    for text in re.findall(r"^```text\n(.*?)^```$", (DOCS / "errors.md").read_text(), re.M | re.S)
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_message_is_one_of_the_code(message):
    text = f": {message.partition(': ')[2]} "
    # A message may be put together of two: the longest string must make up most of it.
    best = max((m.end() - m.start() for p in patterns() if (m := p.search(text))), default=0)
    assert best > 0.6 * len(text), f"nothing in greentor says {text!r}"


def test_reasons_for_closing_a_connection():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", (DOCS / "connections.md").read_text(), re.M)
    assert tuple(rows) == CLOSE_REASONS


def options_in(page: str) -> dict[str, object]:
    """Return the rows of a page's table of the pool's options: their names and defaults."""
    rows = re.findall(r"^\| `(\w+)` \| `?([^|]*?)`? \| .* \|$", (ROOT / page).read_text(), re.M)
    return {name: ast.literal_eval(default) for name, default in rows}


def test_options_of_the_pool():
    expected = {field.name: field.default for field in dataclasses.fields(PoolOptions)}
    assert options_in("docs/connections.md") == {**expected, "hold": "request"}


def test_options_of_the_pool_in_the_readme_are_some_of_them():
    some = options_in("README.md")
    assert {"pool_size", "max_overflow", "pool_timeout", "hold"} <= some.keys()
    assert some.items() <= options_in("docs/connections.md").items()


def test_settings_of_greentor():
    named = re.findall(r"^\| `GREENTOR\[\"(\w+)\"\]`", (DOCS / "reference.md").read_text(), re.M)
    assert set(named) == checks.options().keys()


def test_reference_lists_every_public_name():
    text = (DOCS / "reference.md").read_text()
    named = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (?:[\w.]+\.)?(\w+)(?:\(|$)", text, re.M))
    for module in (greentor, *PACKAGES):
        public = {name for name in module.__all__ if not name.startswith("_")}
        assert public <= named, module.__name__


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_named_files_exist(page):
    named = re.findall(r"`((?:app|bench|greentor|handlers|tests)/[\w/.]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_modules_to_run_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"python -m ([\w.]+)", text)) | set(
        re.findall(r"`((?:bench|tests)\.\w+)", text)
    )
    assert len(named) >= 8
    for name in named:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_every_page_is_linked_from_the_index():
    pages = {str(path.relative_to(DOCS))[:-3] for path in DOCS.rglob("*.md")} - {"index"}
    text = (DOCS / "index.md").read_text()
    trees = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)^```", text, re.M | re.S)
    assert pages == {name for tree in trees for name in tree.split()}
