#!/usr/bin/env python3
"""Paste measured figures into docs (PAGES), between `<!-- figures:NAME -->` and `<!-- end -->`.

    python tools/figures.py             # all of FIGURES: the demo and their benches, about an hour
    python tools/figures.py engine      # only some of them
    python tools/figures.py bytes=FILE  # from the rows that `quantfl bench bytes --json` printed before

Of the benches, `attacks`, `scale`, `models` and `keys` are not here: docs/explanation/figures.md says which
figures are copied by hand, and from which command.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Columns of the ledger that these runs leave empty.
LEFT_OUT = ("noise", "security")


def quantfl(*argv: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "quantfl.cli.main", *argv, "--json"], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode != 0:
        sys.exit(f"quantfl {' '.join(argv)} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows])


def picture(summary: dict[str, Any]) -> None:
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
    for name, direction in [(b, w) for b in list(ledger["boards"])[:2] for w in ("up", "down")]:
        rows.append(
            [
                name,
                direction,
                *(f"{v:,}" for k, v in ledger["boards"][name][direction].items() if k not in LEFT_OUT),
                f"{ledger['boards'][name][direction + '_total']:,}",
            ]
        )
    for direction in ("up", "down"):
        rows.append(
            [
                "all boards, rounds only",
                direction,
                *(f"{v:,}" for k, v in ledger["rounds_" + direction].items() if k not in LEFT_OUT),
                f"{ledger[f'rounds_{direction}_total']:,}",
            ]
        )
    mine = ledger["rounds_up_total"] + ledger["rounds_down_total"]
    theirs = plain["rounds_up_total"] + plain["rounds_down_total"]
    text = (
        f"What the demo ends with ({s['boards_used']}, {s['rounds']} rounds): accuracy "
        f"{s['accuracy_before']:.3f} → "
        f"{s['accuracy']:.3f} on {s['test_samples']} test images, {s['exported_accuracy']:.3f} as int8 "
        f"model in {s['interpreter']}; "
        f"plain float32 exchange of the same rounds reaches {plain['accuracy']:.3f} with {theirs:,} "
        f"bytes, here {mine:,}: "
        f"{theirs / mine:.1f}× fewer.\n\n![the demo's summary](demo.svg)\n\n![accuracy against "
        "bytes](demo.png)\n\n"
        "Two of its links, in bytes:\n\n"
    )
    return text + table(
        ["link", "", "payload", "framing", "acknowledgement", "retransmission", "handshake", "total"], rows
    )


def engine() -> str:
    rows = quantfl("bench", "engine")
    small = {r["firmware"]: r["bytes"] for r in quantfl("bench", "flash")}.get("standard_m4")
    text = (
        "`quantfl bench engine`: executed instructions (not cycles) of one inference on an emulated "
        "Cortex-M4F, outputs compared "
        "with tflite-micro; in brackets the share of what tflite-micro takes with CMSIS-NN (portable: "
        "with its reference kernels; "
        "Cortex-M55 with Helium: of what the DSP kernels take there), "
        f"counted the same way. The engine with all operators and the bench: {rows[0]['code_bytes']:,} "
        "bytes of code; the whole "
        f"firmware with all operators, training, codecs, link and keys: {rows[0]['firmware_bytes']:,}"
        + (f"; the standard build ([docs/PORTING.md](PORTING.md)): {small:,}.\n\n" if small else ".\n\n")
    )

    def share(value: float | None) -> str:
        return "" if value is None else f" ({value:.2f}×)"

    return text + table(
        [
            "model",
            "MACs",
            "instructions",
            "portable kernels",
            "M55 with Helium",
            "arena bytes",
            "stack bytes",
            "start-up",
            "bit-exact",
            "training, per weight and sample",
        ],
        [
            [
                r["model"],
                f"{r['macs']:,}",
                f"{r['insns']:,}{share(r['insns_ratio'])}",
                f"{r['portable_insns']:,}{share(r['portable_ratio'])}",
                f"{r['m55_insns']:,} ({r['m55_insns'] / r['m55_dsp_insns']:.2f}×)" if r["m55_insns"] else "–",
                f"{r['arena_bytes']:,}{share(r['arena_ratio'])}",
                f"{r['stack_bytes']:,}",
                f"{r['open_share']:.1%}",
                f"{r['bit_exact']} ({r['inputs_checked']} inputs)",
                f"{r['train_insns_per_weight']:.1f}" if r["train_insns_per_weight"] else "–",
            ]
            for r in rows
        ],
    )


def link() -> str:
    found = quantfl("bench", "link")
    rows = [
        r for r in found if r["clock"] == "virtual" and r["latency_ms"] != 2 and r["ber"] in (0, 1e-5)
    ]  # the whole is long
    checks = [
        f"{r['direction']}, {r['latency_ms']:g} ms, bit error rate {r['ber']:g}: {r['utilisation']:.1%} "
        "of the line"
        f" ({next(v for v in rows if _alike(v, r))['utilisation']:.1%} in virtual time)"
        for r in found
        if r["clock"] == "real"
    ]
    text = (
        "`quantfl bench link`: the boards' and the host's own C on a serial line in virtual time. line "
        "used: share of the time in "
        "which the line carried bytes of use. Three of the lines once more in real time, paced between "
        "two sockets: "
        f"{'; '.join(checks)}.\n\n"
    )
    return text + table(
        [
            "link",
            "direction",
            "baud",
            "latency, ms",
            "bit error rate",
            "goodput, B/s",
            "line used",
            "bytes per byte",
            "sent again",
        ],
        [
            [
                r["link"],
                r["direction"],
                f"{r['baud']:,}",
                f"{r['latency_ms']:g}",
                f"{r['ber']:g}",
                f"{r['goodput']:,}",
                f"{r['utilisation']:.1%}",
                f"{r['overhead_ratio']:.3f}",
                f"{r['retransmitted']:,}",
            ]
            for r in rows
        ],
    )


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[k] == b[k] for k in ("link", "direction", "baud", "latency_ms", "ber"))


SAVED: dict[
    str, Path
] = {}  # benches whose rows come from a file: `quantfl bench NAME --json > FILE` of a longer run


def bench_rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        json.loads(SAVED[name].read_text()) if name in SAVED else quantfl("bench", name)
    )
    return rows


def _bytes_row(r: dict[str, Any]) -> list[str]:
    return [
        r["scheme"],
        str(r["seeds"]),
        f"{r['accuracy']:.3f} ± {r['accuracy_sd']:.3f}",
        f"{r['up_bytes']:,}",
        f"{r['down_bytes']:,}",
        f"{r['bytes_to_target']:,}"
        if r["bytes_to_target"]
        else f"reached by {r['seeds_at_target']} of {r['seeds']} seeds",
        f"{r['ratio_to_fp32']:.1f}" if r["ratio_to_fp32"] else "–",
    ]


BYTES_HEAD = ["up / down", "seeds", "accuracy", "up", "down", "bytes to target", "fp32's / these"]


def bytes_() -> str:
    """Of every task's central setting fp32, the paper's, the rival that needs the fewest bytes with its own
    downlink, the default."""
    from quantfl_lab.bench.scheme import DEFAULT, FP32, OWN, PAPER

    rows, some = bench_rows("bytes"), []
    seeds, ours = min(r["seeds"] for r in rows), [s.name for s in OWN]
    for key in dict.fromkeys((r["task"], r["split"], r["participation"]) for r in rows):
        here = {r["scheme"]: r for r in rows if (r["task"], r["split"], r["participation"]) == key}
        rivals = [
            r
            for n, r in here.items()
            if n not in ours and not n.endswith("our downlink") and r["bytes_to_target"]
        ]
        if rivals:  # there are none beside the central setting
            best = min(rivals, key=lambda r: r["bytes_to_target"])
            some += [here[FP32.name], here[PAPER.name], best, here[DEFAULT.name]]
    text = (
        "`quantfl bench bytes`: bytes on the wire per link, everything after set-up counted, over all "
        "rounds and until the accuracy reaches "
        f"fp32's final one minus half a point; mean of {seeds} seeds. Of the rivals the one that gets "
        "there with the "
        "fewest; all of them: further down. Boards do not lie here, so `admission.outliers` and "
        "`admission.refusals` are off, also with the default.\n\n"
    )
    body = [[f"{r['task']}, {r['split']}, {r['participation']:.0%} a round", *_bytes_row(r)] for r in some]
    return text + table(["task", *BYTES_HEAD], body)


def bytes_all() -> str:
    rows, parts = bench_rows("bytes"), []
    for key in dict.fromkeys((r["task"], r["split"], r["participation"]) for r in rows):
        some = [r for r in rows if (r["task"], r["split"], r["participation"]) == key]
        first = some[0]
        parts.append(
            f"**{key[0]}**, {key[1]}, {key[2]:.0%} of {first['links']} boards a round, "
            f"{first['rounds']} rounds; backbone: {first['backbone']}\n\n"
            + table(BYTES_HEAD, [_bytes_row(r) for r in some])
        )
    return "\n\n".join(parts)


def _num(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _share(value: float) -> str:
    return f"{round(value, 4) + 0.0:.1%}"


def _code(row: dict[str, Any]) -> str:
    """BU(8), means, coded"""
    if row["levels"] is None:
        return str(row["codec"])
    kind, *options = row["codec"].split(", ")
    return ", ".join([f"{kind}({row['levels']})", *options, *(["coded"] if row["coded"] else [])])


def pictures(rows: list[dict[str, Any]], module: str) -> str:
    """Draw a bench's pictures into docs/ and show them."""
    from importlib import import_module

    files = import_module(f"quantfl_lab.bench.{module}").plots(rows, ROOT / "docs" / "bench")
    return "\n\n".join(f"![{f.stem}](bench/{f.name})" for f in files)


def quantisers() -> str:
    rows = quantfl("bench", "quantisers")
    kinds = list(dict.fromkeys(r["data"] for r in rows))
    cells = {(r["data"], r["family"], r["quantiser"]): r for r in rows}
    body = []
    for family, name in dict.fromkeys((r["family"], r["quantiser"]) for r in rows):
        found = [cells[k, family, name] for k in kinds]
        pairs = [f"{r['bits_per_weight']:.2f}, {r['nmse']:.3g}" for r in found]
        body.append([name, *pairs, _num(found[0]["excess_bits"], ".2f")])
    return table(["code", *kinds, "excess bits, normal"], body) + "\n\n" + pictures(rows, "quantisers")


def ablations() -> str:
    rows = quantfl("bench", "ablations")
    by = {
        kind: [r for r in rows if r["ablation"] == kind]
        for kind in dict.fromkeys(r["ablation"] for r in rows)
    }
    levels = table(
        [
            "task",
            "code",
            "bits per weight",
            "accuracy",
            "uplink bytes saved",
            "of both ways, fp32 down",
            "fp32's bytes to target / these",
        ],
        [
            [
                r["task"],
                _code(r),
                f"{r['bits_per_weight']:.2f}",
                f"{r['accuracy']:.4f} ± {r['accuracy_sd']:.4f}",
                _share(r["uplink_saved"]),
                _share(r["total_saved"]),
                _num(r["ratio_to_fp32"], ".2f"),
            ]
            for r in by["levels"]
        ],
    )
    begun = by["initialisation"]
    spread = table(
        [
            "task",
            "start",
            "weights",
            "lr",
            "rms of a delta",
            "excess kurtosis",
            "range / rms",
            "entropy of BU(64), BU(16), bits",
            "DZ(4), bits per weight",
        ],
        [
            [
                r["task"],
                r["start"],
                f"{r['weights']:,}",
                f"{r['lr']:g}",
                f"{r['delta_rms']:.4f}",
                f"{r['kurtosis']:.1f}",
                f"{r['range_over_rms']:.1f}",
                f"{r['entropy_bu64']:.2f}, {r['entropy_bu16']:.2f}",
                f"{r['dz4_bits']:.2f}",
            ]
            for r in begun
            if r["codec"] == "fp32"
        ],
    )
    cost = table(
        ["task", "start", "code", "accuracy", "rounds to target", "bytes to target"],
        [
            [
                r["task"],
                r["start"],
                r["codec"],
                f"{r['accuracy']:.4f} ± {r['accuracy_sd']:.4f}",
                _num(r["rounds_to_target"], ".1f"),
                _num(r["bytes_to_target"], ",.0f"),
            ]
            for r in begun
        ],
    )
    pairs = {(r["task"], r["codec"], r["setting"], r["feedback"]): r for r in by["feedback"]}
    fed = table(
        ["task", "code", "without: bits, accuracy, points below fp32", "with feedback"],
        [
            [
                task,
                f"{family}, {name}",
                *(
                    "diverges"
                    if r["diverged"]
                    else f"{r['bits_per_weight']:.2f}, {r['accuracy']:.4f}, "
                    f"{round(100 * r['below_fp32'], 2) + 0.0:.2f}"
                    for r in (pairs[task, family, name, on] for on in (False, True))
                ),
            ]
            for task, family, name in dict.fromkeys(k[:3] for k in pairs)
        ],
    )
    limit = table(
        ["task", "code", "equal means within", "fewest bits without feedback", "with"],
        [
            [
                r["task"],
                r["codec"],
                f"{100 * r['tolerance']:.1f} points",
                *(
                    f"{r[f'bits_{k}']:.2f} ({r[f'setting_{k}']})" if r[f"bits_{k}"] is not None else "none"
                    for k in ("without", "with")
                ),
            ]
            for r in by["feedback limit"]
        ],
    )
    parts = (
        "**Number of levels**",
        levels,
        "**Initialisation**",
        spread,
        cost,
        "**Error feedback**",
        fed,
        limit,
        pictures(rows, "ablations"),
    )
    return f"Mean of {rows[0]['seeds']} seeds.\n\n" + "\n\n".join(parts)


def alternatives() -> str:
    rows = bench_rows("alternatives")
    ways, runs = [r for r in rows if "family" in r], [r for r in rows if "dead_zone" in r]
    kinds = list(dict.fromkeys((r["task"], r["step"]) for r in ways))
    cells = {(r["task"], r["step"], r["family"], r["setting"]): r for r in ways}
    told = table(
        ["way", *(f"{task}, step {step:g} rms" for task, step in kinds)],
        [
            [
                ", ".join(filter(None, name)),
                *(
                    f"{r['bits_per_weight']:.3f}, {r['nmse']:.3f}, "
                    + ("–" if r["saved"] is None else _share(r["saved"]))
                    for r in (cells[(*kind, *name)] for kind in kinds)
                ),
            ]
            for name in dict.fromkeys((r["family"], r["setting"]) for r in ways)
        ],
    )
    whole = table(
        [
            "task",
            "step",
            "zero up to",
            "decoded nearer to zero by",
            "symbols of at most",
            "accuracy (fp32's)",
            "up",
            "down",
            "bytes to target",
        ],
        [
            [
                r["task"],
                f"{r['steps']:g} rms",
                f"{r['dead_zone']:g} steps",
                f"{r['nearer']:g} steps",
                str(r["most"] or "any"),
                f"{r['accuracy']:.4f} ({r['fp32_accuracy']:.4f})",
                f"{r['up_bytes']:,}",
                f"{r['down_bytes']:,}",
                _num(r["bytes_to_target"], ",.0f"),
            ]
            for r in runs
        ],
    )
    return (
        f"One message (bits per weight, NMSE, share of DZ's bits saved at that loss):\n\n{told}\n\n"
        f"Whole runs, mean of {runs[0]['seeds']} seeds, one step from begin to end, error feedback, our "
        "downlink (8 to 2 rms, dither "
        f"0.6):\n\n{whole}"
    )


def flash() -> str:
    rows = quantfl("bench", "flash")
    names = list(rows[0])[1:-1]
    body = [[f"`{r['firmware']}`", *(f"{r[n]:,}" for n in names)] for r in rows]
    return "`quantfl bench flash`: bytes of flash, packages not counted.\n\n" + table(
        ["firmware", *names], body
    )


def train() -> str:
    rows = [r for r in bench_rows("train") if r["persons"]]
    return table(
        [
            "task",
            "trained",
            "head",
            "params",
            "before",
            "after",
            "TensorFlow",
            "insns/sample",
            "RAM of the fit",
        ],
        [
            [
                f"{r['task']} ({r['persons']} persons, {r['test_samples']} test samples)",
                r["train"],
                r["cut"].replace("*", r"\*"),
                f"{r['params']:,}",
                f"{r['accuracy_before']:.3f}",
                f"{r['accuracy']:.3f}",
                f"{r['reference_accuracy']:.3f}",
                f"{r['insns_per_sample']:,.0f}",
                f"{r['ram_bytes']:,}",
            ]
            for r in rows
        ],
    )


def train_dense() -> str:
    rows = [r for r in bench_rows("train") if not r["persons"]]
    return table(
        ["layer", "insns/sample", "per weight", "RAM of the fit"],
        [
            [r["cut"], f"{r['insns_per_sample']:,.0f}", f"{r['insns_per_weight']:.1f}", f"{r['ram_bytes']:,}"]
            for r in rows
        ],
    )


FIGURES = {
    "demo": demo,
    "engine": engine,
    "flash": flash,
    "link": link,
    "bytes": bytes_,
    "bytes-all": bytes_all,
    "quantisers": quantisers,
    "alternatives": alternatives,
    "ablations": ablations,
    "train": train,
    "train-dense": train_dense,
}
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "BENCH.md",
    ROOT / "docs" / "PORTING.md",
    ROOT / "docs" / "TRAINING.md",
)


def wrapped(text: str) -> str:
    """Paragraphs in lines of at most 110 columns; tables and pictures stay as they are."""
    lines = []
    for line in text.split("\n"):
        prose = line and not line.startswith(("|", "!"))
        lines += textwrap.wrap(line, 110, break_long_words=False, break_on_hyphens=False) if prose else [line]
    return "\n".join(lines)


def main() -> None:
    for word in sys.argv[1:] or FIGURES:
        name, _, file = word.partition("=")
        if file:
            SAVED[name.removesuffix("-all").removesuffix("-dense")] = Path(file)
        block = f"<!-- figures:{name} -->\n{wrapped(FIGURES[name]())}\n<!-- end -->"
        pattern = rf"<!-- figures:{name} -->.*?<!-- end -->"
        for page in PAGES:
            page.write_text(re.sub(pattern, lambda _: block, page.read_text(), flags=re.DOTALL))  # noqa: B023
        print(name)


if __name__ == "__main__":
    main()
