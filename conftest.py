"""Fixtures that quantfl itself gives to tests; a second try for tests in real time."""

# Imported here, since its plugin imports it at the very end otherwise, at a depth that CPython 3.11's parser
# cannot bear.
import hypothesis
import pytest

pytest_plugins = ["quantfl.emulation.pytest_chaos"]

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile(
    "quantfl", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("quantfl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Boards in emulators and radios run in real time, which a crowded machine stops for seconds now and
    then: what fails there once and passes alone is reported as rerun. Tests of bytes and of virtual time get
    no second try."""
    for item in items:
        real_time = item.get_closest_marker("emulated") or "tests/ble" in str(item.path)
        if real_time and "two_thousand" not in item.name and "same_bytes" not in str(item.path):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
