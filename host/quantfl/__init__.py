"""quantfl: federated learning that fits a microcontroller."""

__version__ = "0.1.0"
