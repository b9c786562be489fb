"""A private copy of those modules of Django's MySQL backend that import ``MySQLdb``.

They are loaded a second time, from Django's own files, with PyMySQL bound to that name: by an import
function of their own, so that ``sys.modules`` is untouched and an installed mysqlclient stays what it is.
Modules that do not mention MySQLdb are Django's own, so that ``isinstance`` holds.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import django.db.backends.mysql
import pymysql
import pymysql.constants
import pymysql.converters

_SOURCE = Path(django.db.backends.mysql.__path__[0])
_PACKAGE = f"{__package__}.django"


def _import(
    name: str, globals_: Any = None, locals_: Any = None, fromlist: Any = (), level: int = 0
) -> Any:
    """As ``__import__``, with PyMySQL for MySQLdb."""
    if level == 0 and name.partition(".")[0] == "MySQLdb":
        module = importlib.import_module("pymysql" + name[len("MySQLdb") :])
        return module if fromlist else pymysql
    return builtins.__import__(name, globals_, locals_, fromlist, level)


def _load(name: str) -> ModuleType:
    """Return the module ``name`` of the backend, ours if it imports MySQLdb, else Django's."""
    path = _SOURCE / f"{name}.py"
    if "import MySQLdb" not in (text := path.read_text()) and "from MySQLdb" not in text:
        module = importlib.import_module(f"django.db.backends.mysql.{name}")
        sys.modules[f"{_PACKAGE}.{name}"] = module
        return module
    spec = importlib.util.spec_from_file_location(f"{_PACKAGE}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _load_all() -> ModuleType:
    package = ModuleType(_PACKAGE)
    package.__path__ = []
    sys.modules[_PACKAGE] = package
    names = sorted(path.stem for path in _SOURCE.glob("*.py") if path.stem != "__init__")
    for name in sorted(names, key=lambda name: name == "base"):  # base imports the others
        setattr(package, name, _load(name))
    base = package.base
    assert isinstance(base, ModuleType)
    return base


#: our copy of ``django.db.backends.mysql.base``
base = _load_all()
