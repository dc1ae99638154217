"""Data sets in the formats people have, and federated splits of them."""

from quantfl.data.dataset import Dataset, load
from quantfl.data.splits import split

__all__ = ["Dataset", "load", "split"]
