"""Runs pytest in a random order while other processes keep the processors busy.

`python tools/test_busy.py COUNT SEED [pytest arguments]`: SEED `random` draws one. The seed is printed
before and after the tests, so that an order can be repeated. The exit code is that of pytest.
"""

from __future__ import annotations

import random
import subprocess
import sys


def main(arguments: list[str]) -> int:
    if (
        len(arguments) < 2
        or not arguments[0].isdecimal()
        or not (arguments[1].isdecimal() or arguments[1] == "random")
    ):
        print(
            "test_busy: give the number of busy processes and a seed or `random`: 10 random", file=sys.stderr
        )
        return 2
    count = int(arguments[0])
    seed = random.randrange(2**32) if arguments[1] == "random" else int(arguments[1])
    told = f"test_busy: {count} busy processes beside the tests, order of seed {seed}"
    # A busy process ends with this one: it reads the end of its standard input in a thread of its own.
    spin = (
        "import os, sys, threading\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()\n"
        "while True: pass\n"
    )
    busy = [subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE) for _ in range(count)]
    print(told, flush=True)
    try:
        order = ["-p", "randomly", f"--randomly-seed={seed}"]
        return subprocess.run([sys.executable, "-m", "pytest", *order, *arguments[2:]]).returncode
    finally:
        ended = [p.pid for p in busy if p.poll() is not None]
        for p in busy:
            p.kill()
            p.wait()
        print(told, flush=True)
        if ended:
            print(f"test_busy: {len(ended)} busy processes ended before the tests did", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
