"""A run's settings in words, for legends."""

from __future__ import annotations

from typing import Any

_CODECS = {"fp32": "float32", "dz": "dead zone", "bu": "buckets", "bq": "buckets by quantiles"}


def codec_in_words(table: dict[str, Any], default: dict[str, Any]) -> str:
    """The codec of one direction. table: as a description has it; default: the same, not described."""
    if table == default:
        return "default codec"
    name = _CODECS.get(table["codec"], table["codec"])
    if table["codec"] in ("bu", "bq"):
        return f"{table['levels']} {name}"
    if table["codec"] == "dz" and table.get("step") is not None:
        return f"{name}, step {table['step']:g}"
    return name if table["codec"] == "fp32" else f"{name}, changed settings"


def scheme_in_words(config: dict[str, Any]) -> str:
    """How a run exchanges deltas, such as `default codec` or `64 buckets up, float32 down`."""
    from quantfl.fleet.config import DownlinkTable, UplinkTable

    up = codec_in_words(config["uplink"], UplinkTable().model_dump(mode="json"))
    down = codec_in_words(config["downlink"], DownlinkTable().model_dump(mode="json"))
    return (
        up if up == down == "default codec" else f"{up} both ways" if up == down else f"{up} up, {down} down"
    )
