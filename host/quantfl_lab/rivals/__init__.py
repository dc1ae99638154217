"""Published ways to compress updates, for the benches only: real bytes out, and values from these bytes
alone.

Each codec is a `Quantiser` (quantfl_lab.rivals.base); `schemes.RIVALS` says with which settings, error
feedback and downlink it takes part, `fleet.history` runs it over the same links, frames and ledger as
quantfl's own codecs.
"""
