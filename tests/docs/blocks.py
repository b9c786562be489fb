"""Take the Python out of a page: the page is the only place where it stands.

A block that is to be run is named by an HTML comment on the line above it: ``<!-- after -->``.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import tests.testapp.models

DOCS = Path(__file__).parent.parent.parent / "docs"

_BLOCK = re.compile(r"^<!-- (\S+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> dict[str, str]:
    """Return the named blocks of a page, by name; lines keep their number in the page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = {
        match[1]: "\n" * text.count("\n", 0, match.start(2)) + match[2]
        for match in _BLOCK.finditer(text)
    }
    assert found, f"{page} has no named block"
    return found


def load(page: str, name: str, monkeypatch) -> ModuleType:
    """Run one block as a module; the pages' ``shop.models`` are those of the tests."""
    shop = ModuleType("shop")
    shop.models = tests.testapp.models
    monkeypatch.setitem(sys.modules, "shop", shop)
    monkeypatch.setitem(sys.modules, "shop.models", tests.testapp.models)
    module = ModuleType(f"{page}:{name}")
    exec(compile(blocks(page)[name], str(DOCS / page), "exec"), vars(module))
    return module
