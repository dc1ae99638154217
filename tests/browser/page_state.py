"""A state of a run for the page's tests."""

from __future__ import annotations

from quantfl.report.page.state import RunState


def filled(count: int) -> RunState:
    state = RunState("filled <b>&amp;</b>", 100)
    state.phase("round 3 of 100: <i>many</i> boards")
    for i in range(count):
        state.board(f"board-{i:04d}", state="done", samples=100 + i, up=1000 * i, down=7, loss=0.5)
    for r in range(1, 40):
        boards = {
            f"board-{i:04d}": {"up_bytes": 1, "down_bytes": 2, "loss": 0.1} for i in range(min(3, count))
        }
        state.round_done(
            {
                "round": r,
                "accuracy": 1 - 1 / r,
                "loss": 2 / r,
                "up_bytes": 100 * r,
                "down_bytes": 90 * r,
                "seconds": 0.1,
                "boards": boards,
                "contributors": list(boards),
                "failed": {},
                "refused": {"board-0001": "too large"} if r == 5 else {},
            }
        )
    state.warn("a cable is loose <script>alert(1)</script>")
    return state
