#!/bin/sh
# Install what the firmware needs from the system's package manager, where there is one we may use; with the argument
# `test` what only tests need as well. Quick when all is there. Never fails for want of the Arm tools: boards are native
# processes then.
set -u

for_tests="${1:-}"
need=""
want() { # command, package
    command -v "$1" >/dev/null 2>&1 || need="$need $2"
}
want cc gcc
if [ "$for_tests" = test ]; then
    want tshark tshark # reads traces with our dissector
    want chromium chromium # shows the live page
    want clang clang   # with libFuzzer: make fuzz
    if command -v dpkg >/dev/null 2>&1 && ! dpkg -s libclang-rt-14-dev >/dev/null 2>&1 && apt-cache show libclang-rt-14-dev >/dev/null 2>&1; then
        need="$need libclang-rt-14-dev"
    fi
fi
want dbus-daemon dbus # the virtual BLE adapter
python3 -c 'import venv, ensurepip' 2>/dev/null || need="$need python3-venv"
python3 - <<'EOF' 2>/dev/null || need="$need python3-dev"
import sysconfig, os, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
EOF
if [ -z "${QUANTFL_NO_ARM:-}" ]; then
    want arm-none-eabi-gcc gcc-arm-none-eabi
    want qemu-system-arm qemu-system-arm
    libcs=picolibc-arm-none-eabi
    if [ "$for_tests" = test ]; then # the other emulated cores
        want riscv64-unknown-elf-gcc gcc-riscv64-unknown-elf
        want qemu-system-riscv32 qemu-system-misc
        want xtensa-lx106-elf-gcc gcc-xtensa-lx106
        libcs="$libcs picolibc-riscv64-unknown-elf"
    fi
    for libc in $libcs; do
        if command -v dpkg >/dev/null 2>&1 && ! dpkg -s $libc >/dev/null 2>&1; then
            need="$need $libc"
        fi
    done
fi
# A QEMU that has a model of the Nucleo-L476RG's chip, beside the installed one. Tests that need it are skipped without.
chips() {
    [ "$for_tests" = test ] && [ -z "${QUANTFL_NO_ARM:-}" ] || return 0
    qemu-system-arm --version 2>/dev/null | grep -Eq 'version [1-9][0-9]\.' && return 0
    [ -x .cache/qemu10/usr/bin/qemu-system-arm ] || sh tools/qemu10.sh .cache/qemu10 || true
}
if [ -z "$need" ]; then
    chips
    exit 0
fi

if [ "$(id -u)" = 0 ]; then sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo -n"
else sudo="none"
fi
if command -v apt-get >/dev/null 2>&1 && [ "$sudo" != none ]; then
    echo "installing:$need"
    install() { DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1; }
    $sudo apt-get update -qq >/dev/null 2>&1
    # All at once; where one is not to be had, the others one by one.
    install $need || for package in $need; do install "$package" || echo "could not be installed: $package"; done
else
    echo "not installed, and no package manager to use without a password:$need"
fi
if ! command -v cc >/dev/null 2>&1; then
    echo "quantfl needs a C compiler: install gcc (or clang) and try again" >&2
    exit 1
fi
chips
exit 0
