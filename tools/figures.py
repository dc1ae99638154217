#!/usr/bin/env python3
"""Paste measured figures into README.md, between `<!-- figures:NAME -->` and `<!-- end -->`.

    python tools/figures.py            # runs the demo and `quantfl bench engine` and `bytes`, some minutes
    python tools/figures.py engine     # only some of them
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def quantfl(*argv: str) -> object:
    done = subprocess.run([sys.executable, "-m", "quantfl.cli.main", *argv, "--json"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"quantfl {' '.join(argv)} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def picture(summary: dict) -> None:
    """The demo's closing summary as an SVG."""
    from rich.console import Console

    from quantfl.report.summary import print_summary

    summary["files"] = {k: f"demo/{Path(v).name}" for k, v in summary["files"].items()}
    console = Console(record=True, width=100, file=io.StringIO())
    print_summary(summary, console)
    console.save_svg(str(ROOT / "docs" / "demo.svg"), title="make demo")


def demo() -> str:
    with tempfile.TemporaryDirectory() as folder:
        s = quantfl("demo", "--out", folder + "/demo")
        shutil.copy(Path(folder) / "demo" / "accuracy.png", ROOT / "docs" / "demo.png")
    picture(s)
    ledger, plain = s["ledger"], s["fp32"]
    rows = []
    for name, way in [(b, w) for b in list(ledger["boards"])[:2] for w in ("up", "down")]:
        rows.append([name, way, *(f"{v:,}" for k, v in ledger["boards"][name][way].items() if k != "noise"),
                     f"{ledger['boards'][name][way + '_total']:,}"])  # fmt: skip
    for way in ("up", "down"):
        rows.append(["all boards, rounds only", way, *(f"{v:,}" for k, v in ledger["rounds_" + way].items() if k != "noise"),
                     f"{ledger[f'rounds_{way}_total']:,}"])  # fmt: skip
    mine = ledger["rounds_up_total"] + ledger["rounds_down_total"]
    theirs = plain["rounds_up_total"] + plain["rounds_down_total"]
    text = (
        f"What the demo ends with ({s['boards_used']}, {s['rounds']} rounds): accuracy {s['accuracy_before']:.3f} → "
        f"{s['accuracy']:.3f} on {s['test_samples']} test images, {s['exported_accuracy']:.3f} as int8 model in {s['interpreter']}; "
        f"plain float32 exchange of the same rounds reaches {plain['accuracy']:.3f} with {theirs:,} bytes, here {mine:,}: "
        f"{theirs / mine:.1f}× fewer.\n\n![the demo's summary](docs/demo.svg)\n\n![accuracy against bytes](docs/demo.png)\n\n"
        "Two of its links, in bytes:\n\n"
    )
    return text + table(["link", "", "payload", "framing", "acknowledgement", "retransmission", "handshake", "total"], rows)


def engine() -> str:
    rows = quantfl("bench", "engine")
    text = (
        "`quantfl bench engine`: executed instructions (not cycles) of one inference on an emulated Cortex-M4F, outputs compared "
        f"with tflite-micro. Code of the whole bench firmware, all operators: {rows[0]['code_bytes']:,} bytes.\n\n"
    )
    return text + table(
        ["model", "MACs", "instructions", "per MAC", "arena bytes", "stack bytes", "bit-exact", "training, per weight and sample"],
        [[r["model"], f"{r['macs']:,}", f"{r['insns']:,}", f"{r['insns_per_mac']:.2f}", f"{r['arena_bytes']:,}",
          f"{r['stack_bytes']:,}", f"{r['bit_exact']} ({r['inputs_checked']} inputs)",
          f"{r['train_insns_per_weight']:.1f}" if r["train_insns_per_weight"] else "–"] for r in rows],
    )  # fmt: skip


def bytes_() -> str:
    rows = quantfl("bench", "bytes")
    text = (
        "`quantfl bench bytes`: bytes on the wire per link, everything counted, over all rounds and until the accuracy reaches "
        f"fp32's final one minus half a point; mean of {rows[0]['seeds']} seeds. digits: 8 boards, all in every round; mnist: "
        "100 boards, ten a round; both Dirichlet(0.3).\n\n"
    )
    return text + table(
        ["task", "up / down", "accuracy", "up", "down", "bytes to target", "fp32's / these"],
        [[r["task"], r["scheme"], f"{r['accuracy']:.3f} ± {r['accuracy_sd']:.3f}", f"{r['up_bytes']:,}", f"{r['down_bytes']:,}",
          f"{r['bytes_to_target']:,}" if r["bytes_to_target"] else "not reached",
          f"{r['ratio_to_fp32']:.1f}" if r["ratio_to_fp32"] else "–"] for r in rows],
    )  # fmt: skip


FIGURES = {"demo": demo, "engine": engine, "bytes": bytes_}


def main() -> None:
    readme = ROOT / "README.md"
    for name in sys.argv[1:] or FIGURES:
        block = f"<!-- figures:{name} -->\n{FIGURES[name]()}\n<!-- end -->"
        pattern = rf"<!-- figures:{name} -->.*?<!-- end -->"
        readme.write_text(re.sub(pattern, lambda _: block, readme.read_text(), flags=re.S))  # noqa: B023
        print(name)


if __name__ == "__main__":
    main()
