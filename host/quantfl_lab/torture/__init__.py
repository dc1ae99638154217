"""Runs under random faults, each held against a clean one."""
