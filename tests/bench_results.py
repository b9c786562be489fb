"""Results of a comparison that never was, for the tests of its report and of the guard."""

import random

from bench.compare.results import Fairness, Results, Sample
from bench.peers import PEERS

#: requests a second on db, plausible ones
RATES = {
    "greentor": 2600,
    "greentor-uvloop": 3050,
    "floor": 2370,
    "threads": 3035,
    "threads-pymysql": 2250,
    "gthread": 2445,
    "gevent": 1163,
    "gevent-persistent": 2150,
    "granian": 3595,
    "uvicorn": 967,
    "tornado-sqlalchemy": 2244,
    "fastapi-asyncmy": 2097,
    "fastapi-aiomysql": 1810,
    "peewee": 1510,
}
PARTS = {
    "json": 3.3,
    "plaintext": 3.6,
    "db": 1.0,
    "queries-1": 0.98,
    "queries-5": 0.4,
    "queries-10": 0.21,
    "queries-15": 0.15,
    "queries-20": 0.112,
    "fortunes": 1.1,
    "updates-1": 0.61,
    "updates-20": 0.055,
    "mixed": 0.96,
    "page": 0.42,
}


def plausible(rounds: int = 5, seed: int = 1) -> Results:
    """Return results like those of a whole run."""
    chance = random.Random(seed)
    results = Results(
        about={"python": "3.11.9", "cores": 2, "rounds": rounds, "server": "10.11.6-MariaDB"},
        peers={
            peer.name: {"title": peer.title, "packages": dict.fromkeys(peer.packages, "1.2.3")}
            for peer in PEERS.values()
        },
        chosen={
            peer.name: {"db": max(peer.pools), "sleep": max(peer.pools)} for peer in PEERS.values()
        },
    )
    for number in range(rounds):
        for name, rate in RATES.items():
            for workload, part in PARTS.items():
                mine = rate * part * chance.uniform(0.85, 1.15)
                results.samples.append(sample(name, workload, number, mine, chance=chance))
            for connections in (16, 32, 128, 256, 512):
                mine = rate * chance.uniform(0.95, 1.05)
                errors = {"status": 40} if name == "uvicorn" and connections == 512 else {}
                results.samples.append(
                    sample(name, "db", number, mine, connections, errors=errors, chance=chance)
                )
            for connections in (64, 256, 1000):
                mine = min(connections * 20 * 0.96, rate * 1.75) * chance.uniform(0.97, 1.0)
                if name == "floor":
                    mine = 19.8
                errors = {"timeout": 12, "status": 3} if name == "uvicorn" else {}
                results.samples.append(
                    sample(
                        name, "sleep-50", number, mine, connections, errors=errors, chance=chance
                    )
                )
            for workload, connections in (("sleep-50", 1000), ("db", 512)):
                results.fairness.append(crowd(name, workload, connections, number))
    for name, rate in RATES.items():
        for pool in PEERS[name].pools:
            for workload in ("db", "sleep-50"):
                results.sweep.append(
                    sample(name, workload, 0, rate * chance.uniform(0.7, 1), pool=pool)
                )
    return results


def sample(
    peer: str = "greentor",
    workload: str = "db",
    round: int = 0,
    rate: float = 1000,
    connections: int = 64,
    *,
    pool: int | None = None,
    errors: dict[str, int] | None = None,
    memory: float = 0,
    chance: random.Random | None = None,
) -> Sample:
    served = int(rate * 4)
    p50 = 1000 * connections / max(rate, 1)
    weight = {"uvicorn": 0.6, "threads": 0.25, "threads-pymysql": 0.2}.get(peer, 0.05)
    return Sample(
        peer=peer,
        pool=max(PEERS[peer].pools) if pool is None else pool,
        workload=workload,
        connections=connections,
        round=round,
        seconds=4.0,
        requests=served,
        served=served,
        errors=errors or {},
        p50=p50,
        p90=p50 * 1.3,
        p99=p50 * (chance.uniform(1.5, 6) if chance else 2),
        longest=p50 * 9,
        cpu=1e6 / max(rate, 1),
        database_cpu=80.0,
        memory=int((memory or 45 + weight * connections) * 2**20),
        statements=1.0,
    )


def crowd(
    peer: str, workload: str, connections: int, round: int = 0, served: int | None = None
) -> Fairness:
    if served is None:
        served = {"gevent": connections // 3, "uvicorn": connections * 9 // 10}.get(
            peer, connections
        )
    return Fairness(
        peer=peer,
        pool=max(PEERS[peer].pools),
        workload=workload,
        connections=connections,
        round=round,
        seconds=10.0,
        served=served,
        fairly=served * (9 if peer == "peewee" else 10) // 10,
        mean=23.4,
        least=1 if served == connections else 0,
        p50=500.0,
        p99=800.0,
        failed=0,
        memory=90 * 2**20,
    )
