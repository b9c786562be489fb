"""Where the suite comes from, and the interpreter that runs it.

PyMySQL's source distributions hold its tests up to 0.10.1 only; newer ones are in the archives of its
repository. In this order: a directory or an archive that the caller names; an archive that was fetched
before or was put into the cache by hand; the repository's archive of that version; the last source
distribution that has tests, whatever it may lack.

Invariant: what is fetched or built lives below the cache directory; nothing of it enters the
repository.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from tests.oracle.source import Unavailable

ARCHIVE = "https://github.com/PyMySQL/PyMySQL/archive/refs/tags/v{}.tar.gz"
#: the last version whose source distribution contains pymysql/tests
LAST_SDIST = "0.10.1"
#: modules that its tests import and later versions of PyMySQL lack; where both have one, PyMySQL's counts
HELPERS = ("_compat.py", "util.py")
#: what a leg imports besides PyMySQL, in the versions of the running interpreter
PACKAGES = ("cryptography", "greenlet", "pytest", "uvloop")


def tests_of(version: str, source: Path | None, cache: Path, stage: Path) -> str:
    """Unpack `pymysql/tests` below ``stage``, alone; return where it came from."""
    shutil.rmtree(stage, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        if source is None:
            source, origin = _archive(version, cache)
        else:
            origin = str(source)
        if source.is_file():
            with tarfile.open(source) as tar:
                tar.extractall(scratch, filter="data")
            (source,) = Path(scratch).iterdir()
        found = source / "pymysql" / "tests"
        if not (found / "base.py").exists():
            raise Unavailable(f"{origin} holds no pymysql/tests")
        shutil.copytree(found, stage / "pymysql" / "tests")
        for name in HELPERS:
            if (found.parent / name).exists():
                shutil.copy(found.parent / name, stage / "pymysql")
    (stage / "pymysql" / "__init__.py").touch()  # so that pytest knows the package's name
    return origin


def _archive(version: str, cache: Path) -> tuple[Path, str]:
    kept = cache / f"PyMySQL-{version}.tar.gz"
    url = ARCHIVE.format(version)
    if kept.exists():
        return kept, kept.name
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        print(f"oracle: fetching {url} ...", flush=True)
        try:
            # By pip, for its proxies and certificates; the last part of the URL tells the type.
            _pip("download", "--retries=1", "--timeout=20", "--dest", scratch, f"PyMySQL @ {url}")
            (fetched,) = Path(scratch).iterdir()
            shutil.move(fetched, kept)
            return kept, url
        except Unavailable as exc:
            print(f"oracle: no answer: {str(exc).splitlines()[-1]}")
            print(f"oracle: (put the archive of PyMySQL {version} into {kept} by hand)")
    kept = cache / f"PyMySQL-{LAST_SDIST}.tar.gz"
    if not kept.exists():
        _pip("download", "--dest", str(cache), f"PyMySQL=={LAST_SDIST}")
    return kept, f"the source distribution of {LAST_SDIST}, the last with tests"


def interpreter(version: str, cache: Path) -> Path:
    """Return an interpreter with this version of PyMySQL; make its environment if there is none."""
    tag = "{}.{}".format(*sys.version_info)
    home = cache / f"env-{tag}-pymysql-{version}"
    done = home / "complete"
    if not done.exists():
        print(
            f"oracle: making an environment for PyMySQL {version} on Python {tag} ...", flush=True
        )
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        wanted = [f"{name}=={metadata.version(name)}" for name in PACKAGES if _installed(name)]
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*command, f"PyMySQL[ed25519]=={version}", *wanted])
        done.touch()
    return home / "bin" / "python"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    _run([*command, "--no-deps", "--no-binary", "PyMySQL"])


def _run(command: list[str]) -> None:
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-4:])
        raise Unavailable(f"{' '.join(command[1:4])} ... failed:\n{tail}")
