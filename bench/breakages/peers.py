"""The interpreter that the peers run in: a virtual environment with the newest of them, and our Django."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HOME = Path(__file__).resolve().parents[2] / ".cache" / "breakages"

#: in the versions that greentor runs with here
SAME = ("Django", "PyMySQL", "cryptography", "tornado", "asgiref")
OWN = ("uvicorn>=0.30", "gevent>=24.2")


class Unavailable(Exception):
    """The peers could not be installed; the message is pip's."""


def interpreter() -> str:
    """Return the path of a Python that has the peers; install them the first time.

    Raise `Unavailable` if that fails.
    """
    wanted = [f"{name}=={metadata.version(name)}" for name in SAME] + list(OWN)
    home = HOME / "env-{}.{}".format(*sys.version_info)
    python, stamp = home / "bin" / "python", home / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        print(f"Installing the peers into {home} ...", flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(home))
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(*pip, *wanted)
        stamp.write_text(json.dumps(wanted))
    return str(python)


def versions(python: str, *names: str) -> str:
    """Return the names with the versions that ``python`` has."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    numbers = _run(python, "-c", code, *names).split()
    return ", ".join(f"{name} {number}" for name, number in zip(names, numbers, strict=True))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return done.stdout
