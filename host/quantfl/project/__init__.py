"""New projects: a folder to start from, for `quantfl new`."""
