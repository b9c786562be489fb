"""`python -m tests.mariadb [--max-connections 12] [-- COMMAND ...]`: a server for one command.

COMMAND finds DATABASE_URL and, for root without a password, MARIADB_SOCKET in its environment.
Without COMMAND both are printed, and the server runs until Ctrl-C.
"""

import argparse
import os
import signal
import subprocess
import sys

from tests.mariadb import MariaDB


def main(arguments: list[str]) -> int:
    """Run a command with a server, or a server until Ctrl-C."""
    usage = "python -m tests.mariadb [options] [-- COMMAND ...]"
    parser = argparse.ArgumentParser(usage=usage, description=main.__doc__)
    parser.add_argument("--max-connections", type=int, default=40)
    parser.add_argument("--database", default="greentor", help="an empty database to create")
    parser.add_argument("--timezones", action="store_true", help="load the time zone tables")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    # A shell that starts this in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with MariaDB(max_connections=options.max_connections, timezones=options.timezones) as server:
        server.create_database(options.database)
        url = server.url(options.database)
        environ = {**os.environ, "DATABASE_URL": url, "MARIADB_SOCKET": server.unix_socket}
        try:
            if command:
                return _run(command, environ)
            print(url, server.unix_socket, sep="\n", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    return 0


def _run(command: list[str], environ: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environ)
    try:
        return process.wait()
    except SystemExit:  # a SIGTERM, which the command has not seen
        process.terminate()
        raise
    finally:
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
