"""What the settings say: wrong options refused by name, what will block the loop said."""

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from greentor import checks

ROOT = Path(__file__).parent.parent


def start_up(**settings) -> subprocess.CompletedProcess:
    """Run `django.setup()` with these settings in a process of its own."""
    program = f"""
        import logging
        logging.basicConfig()
        import django
        from django.conf import settings
        settings.configure(INSTALLED_APPS=["greentor"], **{settings!r})
        django.setup()
        print("started")
    """
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("databases", "named"),
    [
        ({"ENGINE": "greentor.db.mysql", "OPTIONS": {"pool": {"poolsize": 1}}}, "'poolsize'"),
        ({"ENGINE": "greentor.db.mysql", "OPTIONS": {"ssl_mode": "x"}}, "'ssl_mode'"),
        ({"ENGINE": "greentor.db.sqlite3", "OPTIONS": {"pool": {"poolsize": 1}}}, "'poolsize'"),
        ({"ENGINE": "greentor.db.sqlite3", "OPTIONS": {"time_out": 1}}, "'time_out'"),
        ({"ENGINE": "greentor.db.sqlite3", "OPTIONS": {"transaction_mode": "LATER"}}, "LATER"),
    ],
)
def test_a_wrong_database_option_stops_the_start_by_name(databases, named):
    done = start_up(DATABASES={"default": {"NAME": "/nowhere/x", **databases}})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ImproperlyConfigured" in last
    assert named in last
    assert "DATABASES['default']" in last


@pytest.mark.parametrize(
    ("greentor", "named"),
    [
        ({"block_warnings": 200}, "'block_warnings'"),
        ({"block_warning": 0}, "block_warning"),
        ({"block_warning": "200"}, "block_warning"),
        ({"block_warning": True}, "block_warning"),
        ([("block_warning", 200)], "GREENTOR"),
    ],
)
def test_a_wrong_option_of_greentor_stops_the_start_by_name(greentor, named):
    with override_settings(GREENTOR=greentor), pytest.raises(ImproperlyConfigured, match=named):
        checks.options()


def test_a_wrong_option_of_greentor_is_seen_at_the_start():
    done = start_up(GREENTOR={"block_warnings": 200})
    assert done.returncode == 1
    assert "'block_warnings'" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"DEBUG": False}, None),
        ({"DEBUG": True}, 200),
        ({"DEBUG": False, "GREENTOR": {"block_warning": 50}}, 50),
        ({"DEBUG": True, "GREENTOR": {"block_warning": None}}, None),
    ],
)
def test_block_warning_is_on_under_debug_unless_told(settings, limit):
    with override_settings(**settings):
        assert checks.options()["block_warning"] == limit


MYSQL = {"ENGINE": "greentor.db.mysql", "NAME": "x"}
REDIS = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://"}


def test_what_will_block_the_loop_is_said_at_the_start():
    done = start_up(
        DATABASES={
            "default": MYSQL,
            "slow": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        },
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "remote": REDIS,
            "old": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache"},
        },
    )
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 3
    for line, alias in zip(
        said, ["DATABASES['slow']", "CACHES['remote']", "CACHES['old']"], strict=True
    ):
        assert line.startswith(f"WARNING:greentor:{alias}: ")
        assert "blocks the event loop" in line
    assert "greentor.thread" in said[1]


def test_nothing_is_said_when_nothing_blocks():
    done = start_up(DATABASES={"default": MYSQL})
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_the_same_is_said_by_manage_py_check():
    assert checks.check_blocking in registry.get_checks()
    with override_settings(CACHES={"default": REDIS}):
        [message] = checks.check_blocking()
    assert (message.id, message.level) == ("greentor.W001", logging.WARNING)
    assert "CACHES['default']" in message.msg
