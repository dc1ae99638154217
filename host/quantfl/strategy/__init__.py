"""Strategies: how the deltas of a round become a new global head. They know nothing of links."""
