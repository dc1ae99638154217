"""Flower's simulation on features that were computed before: FedAvg, SGD in numpy, one process of its own.

python flower_rival.py FEATURES.npz CLIENTS ROUNDS prints one JSON object. It needs flwr and numpy only, so
that Flower may be installed in a virtual environment of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

FILE, CLIENTS, ROUNDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
BEGAN = time.perf_counter()
LR, EPOCHS, BATCH = 0.001, 2, 10  # as the twin's description has them
client = ClientApp()
server = ServerApp()
ends: list[float] = []


def fit(w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """SGD on a softmax layer, in place; w: float32 [features, classes], x: float32 [n, features]."""
    loss = 0.0
    for _ in range(EPOCHS):
        loss = 0.0
        for at in range(0, len(y), BATCH):
            xb, yb = x[at : at + BATCH], y[at : at + BATCH]
            z = xb @ w + b
            z -= z.max(axis=1, keepdims=True)
            p = np.exp(z)
            p /= p.sum(axis=1, keepdims=True)
            loss -= float(np.log(p[np.arange(len(yb)), yb] + 1e-12).sum())
            p[np.arange(len(yb)), yb] -= 1.0
            w -= LR / len(yb) * (xb.T @ p)
            b -= LR / len(yb) * p.sum(axis=0)
    return loss / len(y)


@client.train()
def train(message: Message, context) -> Message:
    with np.load(FILE, mmap_mode="r") as z:
        k = int(context.node_config["partition-id"])
        x, y = z["x"][z["at"][k] : z["at"][k + 1]], z["y"][z["at"][k] : z["at"][k + 1]]
        w, b = (a.copy() for a in message.content["arrays"].to_numpy_ndarrays())
    loss = fit(w, b, np.ascontiguousarray(x, np.float32), np.asarray(y, np.int64))
    content = RecordDict(
        {
            "arrays": ArrayRecord([w, b]),
            "metrics": MetricRecord({"num-examples": len(y), "train_loss": loss}),
        }
    )
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, replies)
        ends.append(time.perf_counter())
        return found


@server.main()
def main(grid, context) -> None:
    with np.load(FILE) as z:
        arrays = ArrayRecord([z["w"], z["b"]])
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=CLIENTS,
        min_available_nodes=CLIENTS,
    )
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS)


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}},
    )
    rounds = np.diff(ends)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "first_round_s": ends[0] - BEGAN,
        "round_s": float(np.median(rounds)) if len(rounds) else float("nan"),
        "peak_mb": sum(u.ru_maxrss for u in usage) / 1024,
    }
    print(json.dumps(found))
