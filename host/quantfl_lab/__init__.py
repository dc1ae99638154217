"""The laboratory of quantfl: benches, rival codecs, torture, virtual radios. The product never imports it."""
