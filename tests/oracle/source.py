"""Where the legs' Django comes from: an interpreter that has it, and its source distribution.

Invariant: what is fetched or built lives below the oracle's cache directory; nothing of it enters
the repository.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

#: what a leg imports besides Django, in the versions of the running interpreter
PACKAGES = ("PyMySQL", "cryptography", "greenlet")


class Unavailable(Exception):
    """Something that the oracle needs could not be had; the message says what to do."""


def interpreter(python: str, django: str | None, cache: Path) -> tuple[str, str]:
    """Return an interpreter with the wanted Django, and that Django's version.

    ``django`` is an exact version or a pattern as ``6.1.*``; None takes what is installed. Without
    a matching one in ``python``, make a virtual environment for it in the cache.
    """
    found = _django_version(python)
    if found and (django is None or fnmatch(found, django)):
        return python, found
    if django is None:
        raise Unavailable(f"{python} has no Django: install it, or name a version with --django")
    tag = _output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    home = cache / f"env-{tag}-django-{django.removesuffix('.*')}"
    env = home / "bin" / "python"
    found = _django_version(str(env)) if env.exists() else None
    if not (found and fnmatch(found, django)):
        print(f"oracle: making an environment for Django {django} on Python {tag} ...", flush=True)
        wanted = [f"Django=={django}", *_installed(PACKAGES)]
        _output([python, "-m", "venv", "--clear", str(home)])
        _output([str(env), "-m", "pip", "install", "--quiet", *wanted])
        found = _django_version(str(env))
    if not found:
        raise Unavailable(f"the environment {home} has no Django: remove it and try again")
    return str(env), found


def tests_of(version: str, python: str, cache: Path) -> Path:
    """Return the ``tests`` directory of a Django version's source distribution, unpacked once."""
    home = cache / f"django-{version}"
    if not (home / "tests" / "runtests.py").exists():
        _unpack(_archive(version, python, cache), home)
    return home / "tests"


def _archive(version: str, python: str, cache: Path) -> Path:
    def found() -> Path | None:
        return next(cache.glob(f"[dD]jango-{version}.tar.gz"), None)

    if not found():
        print(f"oracle: fetching the source distribution of Django {version} ...", flush=True)
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "django", f"django=={version}"]
        try:
            _output([*command, "--dest", str(cache)])
        except Unavailable as exc:
            if not found():
                raise Unavailable(
                    f"{exc}\nno source distribution of Django {version}: put django-"
                    f"{version}.tar.gz into {cache} by hand, and run the oracle again"
                ) from None
    archive = found()
    if archive is None:
        raise Unavailable(f"pip saved no django-{version}.tar.gz in {cache}")
    return archive


def _unpack(archive: Path, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        (root,) = Path(scratch).iterdir()
        if not (root / "tests" / "runtests.py").exists():
            raise Unavailable(f"{archive} holds no tests/runtests.py")
        root.rename(home)


def _django_version(python: str) -> str | None:
    command = [python, "-c", "import django; print(django.__version__)"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


def _installed(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name}=={metadata.version(name)}"


def _output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-8:])
        raise Unavailable(f"{' '.join(command[:4])} ... failed:\n{tail}")
    return result.stdout.strip()
