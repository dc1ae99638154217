"""Links to boards: transports that move bytes, sessions that move messages, the ledger that counts both."""
