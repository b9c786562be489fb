"""Hostile and valid bytes for the driver: servers of the tests' own, in memory, and what may come of them.

- `packets`, `values`: the protocol's packets, and contents for columns of every type.
- `conversations`: generates what a valid server says to an application, and the application's steps.
- `mutations`: spoils a conversation.
- `wires`: plays the server's side, for a cooperative connection and for a blocking one.
- `application`: does the steps, on either, and notes what it saw.
- `judging`: runs one conversation on both and says what was wrong.
- ``python -m tests.fuzz``: as many as one likes; a failing one is printed and can be run alone.

A conversation comes from one `random.Random`: seeded, or played by hypothesis, which then shrinks it.
"""
