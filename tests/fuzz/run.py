"""Build the libFuzzer targets and run them: `python tests/fuzz/run.py [TARGET...] --runs 100000` or
`--seconds 8`. The target `host` is Python (fuzz_host.py) and needs no clang.

Corpora lie in tests/fuzz/corpus/TARGET (seeds and inputs that once failed; all are replayed first). What a
run finds goes to .fuzz/TARGET; an input that fails goes to .fuzz/ too, with the command that repeats it. Exit
code: 0 clean, 1 a target failed, 77 clang or its libFuzzer is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIB = ROOT / "firmware" / "lib"
BOARDS = ROOT / "firmware" / "boards"
WORK = ROOT / ".fuzz"
#: The host's side of every message.
HOST = "host"
TARGETS = tuple(sorted(p.stem.removeprefix("fuzz_") for p in HERE.glob("fuzz_*.c")))
ALL_TARGETS = (*TARGETS, HOST)
SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
# A float cast that is out of range is undefined in C; the others of clang's integer checks are not, and are
# left off. QFL_INPROC_US: boards train a few steps in a poll; 80, and inputs that train for long would take
# all the time there is.
FLAGS = [
    "-std=c11",
    "-g",
    "-O2",
    "-ffp-contract=off",
    "-fno-omit-frame-pointer",
    f'-DQFL_FUZZ_BASES="{HERE / "bases"}"',
    "-DQFL_INPROC_US=1000",
]
LIMITS = ["-rss_limit_mb=1024", "-malloc_limit_mb=512", "-print_final_stats=1", "-print_funcs=0", "-reload=0"]
#: Small blocks, freed at the end of each execution: a large quarantine is memory touched for the first time,
#: again and again.
ASAN = "quarantine_size_mb=1:malloc_context_size=4"
MAX_LEN = {"frame": 1024, "delta": 512, "package": 256, "secure": 512, "session": 512, "store": 512}
#: No branch of these depends on what the input says, or they are the board around it: no guidance is to be
#: had from them.
UNGUIDED = ("qfl_sha256", "monocypher", "qfl_link_crc32", "qfl_inproc", "qfl_ram_flash", "qfl_nn_selftest")
#: Arithmetic in loops: guidance by edges, not by each comparison, which are of counters with bounds and cost
#: a third of the time.
LOOPS = re.compile(r"qfl_nn_(?!check)\w+|qfl_head_(?!check)\w+|qfl_link_cobs|qfl_codec_edges|qfl_store_flash")
#: At 64 bits the sanitizers compare addresses, a third of the time with nothing to learn; fuzz.h has empty
#: ones.
WRAPPED = ("__sanitizer_cov_trace_cmp8", "__sanitizer_cov_trace_const_cmp8")
#: Somebody else's, and kept as it is.
FOREIGN = ("monocypher",)
NO_CMP = "-fno-sanitize-coverage=trace-cmp"
#: Targets that start whole boards: each tests its kernels once, and hashes with less than SHA-256
#: (fuzz_board.h).
BOARD = ("session", "store")
WRAPPED_BOARD = ("qfl_nn_selftest", "qfl_sha256_begin", "qfl_sha256_add", "qfl_sha256_end")


def missing() -> str | None:
    """Why the targets cannot be built here, None when they can."""
    if shutil.which("clang") is None:
        return "clang is not installed"
    probe = ["clang", *SANITIZERS, "-x", "c", "-", "-o", "/dev/null"]
    text = (
        "#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *p, size_t n) { return p == NULL && n "
        "== 9; }\n"
    )
    done = subprocess.run(probe, input=text, capture_output=True, text=True)
    return (
        None
        if done.returncode == 0
        else "clang's sanitizers and libFuzzer are not installed (libclang-rt-14-dev)"
    )


def _library(folder: Path) -> Path:
    """The libraries and the in-process board, compiled once; a target takes what it needs, and has no
    counters of the rest."""
    sources = [
        *sorted(LIB.glob("*/src/**/*.c")),
        *sorted((BOARDS / "inproc").glob("*.c")),
        BOARDS / "common" / "qfl_ram_flash.c",
    ]
    includes = [f"-I{d}" for d in (*sorted(LIB.glob("*/include")), BOARDS / "inproc", BOARDS / "common")]
    newest = max(
        p.stat().st_mtime
        for p in (*LIB.glob("**/*.[ch]"), *BOARDS.glob("*/*.[ch]"), *HERE.glob("*.h"), Path(__file__))
    )
    objects = []
    for source in sources:
        out = folder / f"{source.parent.parent.name}-{source.stem}.o"
        objects.append(str(out))
        if not out.exists() or out.stat().st_mtime < newest:
            fuzzer = "" if source.stem in UNGUIDED else "fuzzer-no-link,"
            undefined = "" if source.stem in FOREIGN else ",undefined"
            flags = [f"-fsanitize={fuzzer}address{undefined}", "-fno-sanitize-recover=all", *FLAGS, *includes]
            flags += [NO_CMP] if fuzzer and LOOPS.fullmatch(source.stem) else []
            subprocess.run(
                ["clang", *flags, f"-I{source.parent}", "-c", str(source), "-o", str(out)], check=True
            )
    library = folder / "all.a"
    library.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", str(library), *objects], check=True)
    return library


def build(targets: tuple[str, ...]) -> None:
    folder = WORK / "build"
    folder.mkdir(parents=True, exist_ok=True)
    library = _library(folder)
    folders = (
        *sorted(LIB.glob("*/include")),
        BOARDS / "inproc",
        BOARDS / "common",
        LIB / "qfl_link" / "src",
        HERE,
    )
    includes = [f"-I{d}" for d in folders]
    for target in targets:
        flags = [*SANITIZERS, NO_CMP, *FLAGS, "-Wall", "-Wextra", "-Werror", *includes]
        command = ["clang", *flags, str(HERE / f"fuzz_{target}.c"), str(library)]
        wrap = [f"-Wl,--wrap={name}" for name in (*WRAPPED, *(WRAPPED_BOARD if target in BOARD else ()))]
        subprocess.run([*command, *wrap, "-o", str(WORK / target)], check=True)


def run(target: str, runs: int | None, seconds: int | None, seed: int, timeout: int) -> tuple[bool, int, int]:
    """(clean, executions, executions per second of processor time)."""
    if target == HOST:
        from fuzz_host import run as run_host  # beside this script

        WORK.mkdir(exist_ok=True)
        return run_host(runs, seconds, seed, WORK / "host.log")
    found, corpus = WORK / f"{target}-found", HERE / "corpus" / target
    found.mkdir(exist_ok=True)
    command = [
        str(WORK / target),
        *LIMITS,
        f"-max_len={MAX_LEN.get(target, 512)}",
        f"-artifact_prefix={WORK}/{target}-",
        f"-seed={seed}",
        f"-timeout={timeout}",
    ]
    command += [f"-runs={runs}"] if runs else []
    command += [f"-max_total_time={seconds}"] if seconds else []
    log = WORK / f"{target}.log"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(log, "w") as f:
        command += [str(found), *([str(corpus)] if corpus.is_dir() else [])]
        code = subprocess.run(
            command, stdout=f, stderr=f, env={**os.environ, "ASAN_OPTIONS": ASAN}
        ).returncode
    text = log.read_text(errors="replace")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    count = int((re.findall(r"stat::number_of_executed_units:\s+(\d+)", text) or ["0"])[-1])
    speed = int(count / max(used, 0.01))
    if code != 0:
        print("\n".join(text.splitlines()[-40:]), file=sys.stderr)
        print(
            f"{target}: FAILED; repeat it with: {WORK / target} INPUT (the input is named above)",
            file=sys.stderr,
        )
    return code == 0, count, speed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(ALL_TARGETS))
    parser.add_argument("--runs", type=int, help="executions per target")
    parser.add_argument("--seconds", type=int, help="at most so long per target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--timeout",
        type=int,
        default=20,
        help="seconds after which an execution counts as a hang (20); more where "
        "others may keep the processor that long",
    )
    args = parser.parse_args()
    targets = tuple(args.targets) or ALL_TARGETS
    if unknown := set(targets) - set(ALL_TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if args.runs is None and args.seconds is None:
        parser.error("give --runs, --seconds or both")
    compiled = tuple(t for t in targets if t != HOST)
    reason = missing() if compiled else None
    if reason is not None:
        print(f"fuzzing is skipped: {reason}", file=sys.stderr)
        return 77
    if compiled:
        build(compiled)
    clean = True
    for target in targets:
        ok, count, speed = run(target, args.runs, args.seconds, args.seed, args.timeout)
        clean &= ok
        print(
            f"{target}: {count:,} executions, {speed:,} a second of processor time: "
            f"{'clean' if ok else 'FAILED'}",
            flush=True,
        )
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
