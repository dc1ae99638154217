"""Kernel and initramfs of a guest with the real BlueZ: Debian's kernel, bluetoothd, dbus-daemon, btattach and socat.

    python tools/bluez/image.py FOLDER

Packages come from this machine's Debian sources (`apt-get download`, no root needed) and are unpacked in FOLDER, which ends up with
`vmlinuz` and `initrd`. The guest's init attaches the HCI of its second serial port, starts bluetoothd on a bus of its own, and
serves that bus on TCP port 5555.
"""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

WANTED = ["bluez", "dbus-daemon", "socat", "busybox-static"]
PROGRAMS = [
    "bin/busybox",
    "usr/bin/dbus-daemon",
    "usr/bin/btattach",
    "usr/bin/socat",
    "usr/libexec/bluetooth/bluetoothd",
]
MODULES = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "aes_generic",
    "ctr",
    "ecb",
    "cmac",
    "hmac",
    "sha512_generic",
    "drbg",
    "ecdh_generic",
    "bluetooth",
    "hci_uart",
]
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
<allow user="*"/></policy>
</busconfig>
"""
INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run/dbus /tmp /var/lib/bluetooth /var/run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for m in $(/bin/busybox cat /modules.order); do /bin/busybox insmod /modules/$m || echo "no module $m"; done
/bin/busybox ifconfig lo 127.0.0.1 up
/bin/busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
# The bus believes the user that a client names if the client runs as that user: as the one who runs the tests.
uid=$(/bin/busybox sed -n 's/.*bus_uid=\([0-9]*\).*/\1/p' /proc/cmdline)
echo "tester:x:${uid:=0}:0::/:/bin/sh" >> /etc/passwd
/usr/bin/dbus-daemon --config-file=/etc/bus.conf --nofork --nopidfile &
while [ ! -S /run/dbus/system_bus_socket ]; do /bin/busybox sleep 0.1; done
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket
/usr/libexec/bluetooth/bluetoothd -n &
/bin/busybox sleep 1
/usr/bin/btattach -B /dev/hvc0 -P h4 -N &
/usr/bin/socat TCP-LISTEN:5555,fork,reuseaddr,nodelay,setuid=${uid:-0} UNIX-CONNECT:/run/dbus/system_bus_socket &
echo GUEST-READY
wait
"""


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command[:2])} failed: "
            f"{(done.stderr.strip().splitlines() or ['it does not say why'])[-1]}"
        )
    return done.stdout


def download(folder: Path) -> Path:
    """Packages and the libraries they need, unpacked into one tree."""
    debs, root = folder / "debs", folder / "root"
    debs.mkdir(parents=True, exist_ok=True)
    kernel = re.search(r"Depends: (linux-image-[\w.+-]+)", run("apt-cache", "depends", "linux-image-amd64"))
    if kernel is None:
        raise SystemExit("this machine's package sources have no linux-image-amd64")
    flags = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
    tree = run("apt-cache", "depends", "--recurse", *(f"--no-{f}" for f in flags), *WANTED)
    libraries = sorted({line for line in tree.splitlines() if re.match(r"(lib|zlib)[\w.+-]+$", line)})
    run("apt-get", "download", "-q", *WANTED, *libraries, kernel[1], cwd=debs)
    shutil.rmtree(root, ignore_errors=True)
    for deb in sorted(debs.glob("*.deb")):
        run("dpkg-deb", "-x", str(deb), str(root))
    return root


def libraries_of(root: Path, programs: list[Path]) -> dict[str, Path]:
    """Shared libraries the programs load, by the name they ask for."""
    places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
    found: dict[str, Path] = {}
    todo = list(programs)
    while todo:
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", str(todo.pop()))):
            path = next((root / p / name for p in places if (root / p / name).exists()), None)
            if path is None:
                raise SystemExit(f"{name} is in none of the packages")
            if name not in found:
                found[name] = path.resolve()
                todo.append(path)
    return found


def modules_of(root: Path) -> list[Path]:
    """Kernel modules in the order in which they have to be inserted."""
    files = {p.name[:-3].replace("-", "_"): p for p in (root / "lib" / "modules").rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in order:  # built into the kernel, or there already
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for other in depends[1].decode().split(",") if depends and depends[1] else []:
            add(other)
        order.append(path)

    for name in MODULES:
        add(name)
    return order


class Cpio:
    """A cpio archive in the `newc` form (kernel documentation, initramfs buffer format)."""

    def __init__(self) -> None:
        self.data, self.number = bytearray(), 0
        self.folders: set[str] = set()

    def add(self, name: str, body: bytes, mode: int) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in self.folders:
            self.folders.add(parent)
            self.add(parent, b"", stat.S_IFDIR | 0o755)
        self.number += 1
        fields = (self.number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0)
        self.data += b"070701" + "".join(f"{f:08X}" for f in fields).encode() + name.encode() + b"\0"
        self.data += bytes(-len(self.data) % 4) + body
        self.data += bytes(-len(self.data) % 4)


def build(folder: Path) -> None:
    root = download(folder)
    archive = Cpio()
    programs = [root / p for p in PROGRAMS]
    for path, name in zip(programs, PROGRAMS, strict=True):
        archive.add(name, path.read_bytes(), stat.S_IFREG | 0o755)
    for name, path in libraries_of(root, [p for p in programs if p.name != "busybox"]).items():
        archive.add(f"lib/x86_64-linux-gnu/{name}", path.read_bytes(), stat.S_IFREG | 0o755)
    archive.add(
        "lib64/ld-linux-x86-64.so.2", (root / "lib64/ld-linux-x86-64.so.2").read_bytes(), stat.S_IFREG | 0o755
    )
    modules = modules_of(root)
    for path in modules:
        archive.add(f"modules/{path.name}", path.read_bytes(), stat.S_IFREG | 0o644)
    archive.add("modules.order", "\n".join(p.name for p in modules).encode(), stat.S_IFREG | 0o644)
    archive.add("etc/bus.conf", BUS.encode(), stat.S_IFREG | 0o644)
    archive.add("etc/bluetooth/main.conf", b"[Policy]\nAutoEnable=true\n", stat.S_IFREG | 0o644)
    archive.add("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", stat.S_IFREG | 0o644)
    archive.add("init", INIT.encode(), stat.S_IFREG | 0o755)
    archive.add("TRAILER!!!", b"", 0)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, folder / "vmlinuz")
    (folder / "initrd.new").write_bytes(gzip.compress(bytes(archive.data), 1))
    (folder / "initrd.new").replace(folder / "initrd")
    for used in (root, folder / "debs"):
        shutil.rmtree(used)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
