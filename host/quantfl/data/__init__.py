"""Data sets in the formats people have, and federated splits of them."""

from quantfl.data.dataset import Dataset, load
from quantfl.data.own import from_iterable, load_csv, load_edge_impulse, load_images
from quantfl.data.splits import split

__all__ = ["Dataset", "from_iterable", "load", "load_csv", "load_edge_impulse", "load_images", "split"]
