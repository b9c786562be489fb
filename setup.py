"""Install `greentor` and its sub-packages; the applications, tests and benchmarks stay behind."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, whose dependencies may be missing."""
    text = (ROOT / "greentor" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("greentor/__init__.py states no __version__")
    return found.group(1)


METRICS = ["prometheus_client>=0.22"]
APP = [*METRICS, "dj-database-url>=2.2,<4", "tornado>=6.6"]  # its cross-origin protection
RSA = ["cryptography>=42"]
ED25519 = ["PyNaCl>=1.5"]
UVLOOP = ["uvloop>=0.21"]
HTTPTOOLS = ["httptools>=0.6"]
TEST = [
    *APP,
    *RSA,
    *ED25519,
    *UVLOOP,
    *HTTPTOOLS,
    "Django>=5.2,<5.3; python_version < '3.12'",
    "Django>=6.1,<6.2; python_version >= '3.12'",
    "SQLAlchemy>=2.0.30,<2.2",
    "hypothesis>=6.100,<7",
    "peewee>=3.18,<5",
    "pytest>=9.0,<10",
    "pytest-django>=4.11,<5",
    "pytest-randomly>=3.16,<6",
    "pytest-timeout>=2.3,<3",
    "pytest-tornado==0.8.1",
    "setuptools>=77,<81",  # pytest-tornado imports pkg_resources
]
DOCS = ["Sphinx>=8.1,<10", "furo>=2025.7", "myst-parser>=4,<6"]
DEV = [
    *TEST,
    *DOCS,
    "django-stubs>=5.2,<7",
    "mypy>=1.15,<3",
    "ruff>=0.11,<1",
    "types-greenlet>=3.1,<4",
]

setup(
    name="greentor",
    version=version(),
    description="The Django ORM inside Tornado and asyncio, unchanged, on one thread",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="greentor contributors",
    license="MIT",
    packages=find_packages(include=["greentor", "greentor.*"]),
    package_data={"greentor": ["py.typed"], "greentor.web": ["*.css", "*.html", "*.js"]},
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "Django>=5.2",
        "PyMySQL>=1.1.3",
        "greenlet>=3.0",
        "tornado>=6.4",
    ],
    entry_points={"pytest11": ["greentor = greentor.pytest_plugin"]},
    extras_require={
        "app": APP,
        "metrics": METRICS,
        "rsa": RSA,
        "ed25519": ED25519,
        "uvloop": UVLOOP,
        "httptools": HTTPTOOLS,
        "test": TEST,
        "dev": DEV,
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: AsyncIO",
        "Framework :: Django",
        "Framework :: Django :: 5.2",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Database",
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    ],
)
