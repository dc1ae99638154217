"""What a model of a peripheral needs of QEMU's gdbstub: stops, registers, memory (GDB manual, appendix E,
"Remote Serial Protocol")."""

from __future__ import annotations

import socket
import threading

from quantfl.errors import ToolError

_BLOCK = 1024  # bytes of memory in one packet; QEMU's packets are 4 KiB of hexadecimal text
_R0, _LR, _PC = 0, 14, 15


class Stub:
    """The debugger's end of a connection to one machine, which is stopped when this is made.

    Every call but `interrupt` comes from one thread. EOFError: the machine is gone.
    """

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._lock = threading.Lock()  # a packet goes out whole
        self._buffer = b""
        self.ask("qSupported:hwbreak+")

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            raise EOFError from None

    def ask(self, text: str) -> str:
        """One packet and its answer; of `c` that is the next stop."""
        data = text.encode()
        self._send(b"$%b#%02x" % (data, sum(data) & 0xFF))
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start)
            if start >= 0 and 0 <= end <= len(self._buffer) - 3:
                answer = self._buffer[start + 1 : end]
                self._buffer = self._buffer[end + 3 :]
                return answer.decode()  # not acknowledged: the next packet does that
            try:
                more = self._socket.recv(1 << 16)
            except OSError:
                more = b""
            if not more:
                raise EOFError
            self._buffer += more

    def expect(self, text: str) -> None:
        """A packet that is answered with OK. ToolError when it is not."""
        answer = self.ask(text)
        if answer != "OK":
            raise ToolError(f"QEMU's debugger port answered {text[:20]} with {answer[:20] or 'nothing'}")

    def stop_at(self, at: int) -> None:
        """The machine stops when it is about to run the (Thumb) instruction at this address."""
        self.expect(f"Z1,{at & ~1:x},2")

    def step_over(self, at: int) -> None:
        """Run the one instruction at which the machine has stopped."""
        self.expect(f"z1,{at:x},2")
        self.ask("s")
        self.stop_at(at)

    def interrupt(self) -> None:
        """Stop a running machine; one that is stopped takes no notice."""
        self._send(b"\x03")

    def registers(self) -> list[int]:
        """r0 to r15."""
        data = bytes.fromhex(self.ask("g")[: 16 * 8])
        return [int.from_bytes(data[i : i + 4], "little") for i in range(0, 64, 4)]

    def return_from(self, lr: int, value: int | None = None) -> None:
        """Leave the function whose first instruction is next, with r0 = value."""
        if value is not None:
            self._set(_R0, value)
        self._set(_PC, lr & ~1)

    def _set(self, register: int, value: int) -> None:
        self.expect(f"P{register:x}={(value & 0xFFFFFFFF).to_bytes(4, 'little').hex()}")

    def read(self, at: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = min(_BLOCK, size - len(data))
            data += bytes.fromhex(self.ask(f"m{at + len(data):x},{part:x}"))
        return data

    def write(self, at: int, data: bytes) -> None:
        """Into ROM, too."""
        for i in range(0, len(data), _BLOCK):
            part = data[i : i + _BLOCK]
            self.expect(f"M{at + i:x},{len(part):x}:{part.hex()}")
