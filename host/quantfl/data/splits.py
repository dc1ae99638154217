"""Federated splits: which samples each client has. Seeded, disjoint, and the same on every platform."""

from __future__ import annotations

import numpy as np

from quantfl.errors import DataError, UsageError

SPECS = "iid, dirichlet:ALPHA, by-writer (or by-group)"


def split(
    spec: str,
    y: np.ndarray,
    groups: np.ndarray | None,
    clients: int,
    seed: int,
    *,
    per_client: int | None = None,
) -> list[np.ndarray]:
    """Sample indices of every client: a list of int64 arrays, disjoint, none empty.

    spec: "iid"; "dirichlet:ALPHA", class proportions of each client from Dirichlet(ALPHA) (Hsu et al. 2019),
    smaller is more uneven; "by-writer", each client the samples of whole groups. per_client: at most so many
    samples each. DataError when there are too few samples or groups, UsageError for an unknown spec.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    kind, _, argument = spec.partition(":")
    if kind == "iid" and not argument:
        parts = _iid(len(y), clients, rng)
    elif kind == "dirichlet":
        parts = _dirichlet(y, clients, _alpha(argument, spec), per_client, rng)
    elif kind in ("by-writer", "by-group") and not argument:
        if groups is None:
            raise DataError(
                f"data.split: {spec} needs groups, which this data set does not have; use {SPECS}"
            )
        parts = _by_group(np.asarray(groups), clients, rng)
    else:
        raise UsageError(f"data.split: unknown split {spec!r}; known are {SPECS}")
    if any(len(p) == 0 for p in parts):
        raise DataError(f"data.split: {len(y)} samples are too few for {clients} clients with split {spec}")
    return [p[:per_client] if per_client else p for p in parts]


def _alpha(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e6:
        raise UsageError(f"data.split: {spec!r} needs a positive number, e.g. dirichlet:0.3")
    return value


def _iid(n: int, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    return [np.asarray(p, np.int64) for p in np.array_split(rng.permutation(n), clients)]


def _dirichlet(
    y: np.ndarray, clients: int, alpha: float, per_client: int | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """Each client draws its class proportions and takes samples by them without replacement; a class that has
    run out is replaced by those that have not."""
    classes = int(y.max()) + 1
    pools = [list(rng.permutation(np.flatnonzero(y == k))) for k in range(classes)]
    take = min(per_client or len(y) // clients, len(y) // clients)
    parts = []
    for _ in range(clients):
        wanted = rng.dirichlet(np.full(classes, alpha))
        mine: list[int] = []
        while len(mine) < take:
            left = np.array([len(p) for p in pools])
            p = np.where(left > 0, np.maximum(wanted, 1e-12), 0.0)
            counts = np.minimum(rng.multinomial(take - len(mine), p / p.sum()), left)
            for k in np.flatnonzero(counts):
                mine += [pools[k].pop() for _ in range(counts[k])]
        parts.append(rng.permutation(np.array(mine, np.int64)))
    return parts


def _by_group(groups: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    names = rng.permutation(np.unique(groups))
    if len(names) < clients:
        raise DataError(
            f"data.split: {len(names)} groups are too few for {clients} clients; use at most {len(names)}"
        )
    return [
        rng.permutation(np.flatnonzero(np.isin(groups, chosen))).astype(np.int64)
        for chosen in np.array_split(names, clients)
    ]
