"""One module per bench: `run(quick=…)` returns the rows of its table."""
