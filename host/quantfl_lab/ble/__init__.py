"""A BLE adapter without a radio, for an unmodified bleak."""
