"""``python -m tests.fuzz``: have so many spoiled conversations, print what came of them, and what was wrong.

`--only N` has one again, by its number, and prints all of it. The exit status is 1 if anything was wrong.
"""

import argparse
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.fuzz import conversations, mutations
from tests.fuzz.conversations import CONTENT, Conversation
from tests.fuzz.judging import HANGS, Judge, Verdict

#: memory is watched in one conversation of so many
WATCHED = 10
#: so many wrong ones are printed
ENOUGH = 10


def make(seed: int, number: int, file: Path) -> Conversation:
    """Return the conversation of that number: one of 20 is left valid."""
    rng = Random(f"{seed} {number}")
    made = conversations.conversation(rng, file, odd=rng.randrange(3) == 0)
    return mutations.spoil(made, rng) if number % 20 else made


class Hangs(BaseException):
    """What ends a conversation that does not even let the event loop go round."""


def interrupt(*args: object) -> None:
    raise Hangs


def hear(seed: int, numbers: range, loop: str, file: Path) -> Iterator[tuple[int, Verdict]]:
    signal.signal(signal.SIGALRM, interrupt)
    with Judge(loop) as judge:
        for number in numbers:
            made = make(seed, number, file)
            signal.setitimer(signal.ITIMER_REAL, 2 * HANGS)
            try:
                verdict = judge.hear(made, memory=number % WATCHED == 0)
            except BaseException:
                print(f"--seed {seed} --only {number} was interrupted", flush=True)
                raise
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            yield number, verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, metavar="N")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32), metavar="N")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--only", type=int, metavar="N", help="the number of one conversation")
    arguments = parser.parse_args()
    numbers = range(arguments.inputs)
    if arguments.only is not None:
        numbers = range(arguments.only, arguments.only + 1)
    outcomes: Counter[str] = Counter()
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "file"
        file.write_bytes(CONTENT)
        print(f"--seed {arguments.seed} --loop {arguments.loop}", flush=True)
        for number, verdict in hear(arguments.seed, numbers, arguments.loop, file):
            outcomes[verdict.outcome] += 1
            wrong += bool(verdict.wrong)
            if arguments.only is not None or (verdict.wrong and wrong <= ENOUGH):
                print(f"--seed {arguments.seed} --only {number}")
                print(make(arguments.seed, number, file).describe())
                for seen in verdict.sees:
                    print("   ", seen)
                for what in verdict.wrong:
                    print("  WRONG:", what, flush=True)
    for name, count in outcomes.most_common():
        print(f"{count:8} {name}")
    seconds = time.monotonic() - began
    print(f"{outcomes.total():8} conversations in {seconds:.0f} s, {wrong} of them wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
