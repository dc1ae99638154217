"""Fixtures that quantfl itself gives to tests."""

pytest_plugins = ["quantfl.emulate.pytest_chaos"]
