"""Fleets: run descriptions, rounds with deadlines and failures, checkpoints."""
