"""The engine on a card side by side with PyTorch: every kernel, training steps and generation, in one run.

    python benches/gpu.py [--only gemm,attention] [--minutes 25] [--rounds 2] [--out docs/gpu]
    python benches/gpu.py --device cpu          # a walk through everything on a machine without a card, in tiny shapes

What is timed comes from the engine's own benchmark (`gpu_bench`, one JSON object a line); each of its rows is then
timed in PyTorch with the same shapes: cuBLASLt through torch.matmul, SDPA by flash and by cuDNN, a chunked head and
loss, torch.compile over transformers' models with SDPA, transformers' `generate`. Part by part, ours and theirs take
turns for `--rounds` rounds; the median of rounds counts, the fastest yardstick is the yardstick. Every row is kept
as it comes: <out>/<date>-<card>.jsonl, and the table <out>/<date>-<card>.md is written anew after each part, so that a run that
is cut off keeps what it has. A later run on the same day adds its parts to that file.

A part is one of copy, gemm, attention, head, rows, step, lora and generate. The program is looked for in gpu-bundle/
and target/release/examples/.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import gpu_table
from gpu_torch import Torch

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["copy", "gemm", "attention", "head", "rows", "step", "lora", "generate"]


def program(given):
    """The engine's benchmark."""
    places = [given] if given else [ROOT / "gpu-bundle" / "gpu_bench", ROOT / "target/release/examples/gpu_bench"]
    for place in places:
        if Path(place).exists():
            return str(place)
    sys.exit("gpu_bench is neither in gpu-bundle/ nor in target/release/examples/: run make gpu-bundle where there is cargo")


def ours(command, seconds):
    """Rows of the engine's benchmark, as they come; a row with "error" where a part failed."""
    cache = ROOT / "gpu-bundle" / "cache"
    # NVRTC may stand in this Python's environment, with torch.
    environment = {"VIRTUAL_ENV": sys.prefix} | os.environ | ({"XDG_CACHE_HOME": str(cache)} if cache.exists() else {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.monotonic() + seconds
        for line in process.stdout:
            yield json.loads(line)
            if time.monotonic() > deadline:
                break
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


class Record:
    """Everything that was measured, on disk after each row."""

    def __init__(self, folder, card):
        name = "".join(c if c.isalnum() else "-" for c in card.lower()).strip("-").removeprefix("nvidia-")
        self.stem = folder / f"{datetime.date.today().isoformat()}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = self.stem.with_suffix(".jsonl")
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def add(self, row):
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def write_table(self):
        path = self.stem.with_suffix(".md")
        path.write_text(gpu_table.page(self.rows))
        return path


def output(*command):
    """The first line of a command's output; nothing where it cannot be run."""
    try:
        found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=30)
        return found.stdout.strip().splitlines()[0] if found.returncode == 0 and found.stdout.strip() else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine(torch):
    """What a table must say of where it was measured."""
    return {
        "section": "machine",
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "commit": output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "card": output("nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm", "--format=csv,noheader"),
        "nvcc": output("sh", "-c", "nvcc --version | grep release"),
        "processor": platform.processor() or platform.machine(),
        "versions": torch.versions(),
        "command": " ".join(["python", *sys.argv]),
    }


def measure(part, options, torch, record, deadline):
    """One part, ours and theirs by turns."""
    command = [program(options.engine), "--only", part, "--seconds", str(options.seconds), "--pause", str(options.pause)]
    if options.device == "cpu":
        command += ["--device", "emulation"]
    for turn in range(options.rounds):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        rows = []
        for row in ours([*command, "--minutes", f"{left / 60:.2f}"], left):
            row |= {"who": "isogloss", "turn": turn}
            if row["section"] == "machine" and turn > 0:
                continue
            record.add(row)
            print_row(row)
            if "seconds" in row:
                rows.append(row)
        for row in rows:
            for who, result in torch.measure(row, max(0.0, deadline - time.monotonic())):
                same = {key: row[key] for key in ["section", "case", "with", "flops", "bytes", "tokens"]}
                record.add(same | {"who": who, "turn": turn} | result)
                print_row(same | {"who": who} | result)
        torch.release()


def print_row(row):
    if "error" in row:
        print(f"{row['section']:9} {row.get('case', ''):40} {row['who']:16} FAILED: {row['error'][:200]}", flush=True)
    elif "seconds" in row:
        print(f"{row['section']:9} {row['case']:40} {row['who']:16} {gpu_table.rate(row)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--minutes", type=float, default=60, help="nothing begins after so many")
    parser.add_argument("--rounds", type=int, default=2, help="turns of ours and theirs")
    parser.add_argument("--seconds", type=float, default=0.4, help="most seconds of a measurement")
    parser.add_argument("--pause", type=int, default=200, help="milliseconds of rest before each")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu")
    parser.add_argument("--engine", help="a built gpu_bench")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    deadline = time.monotonic() + 60 * options.minutes
    torch = Torch(options.device, options.seconds, options.pause / 1000)
    record = Record(options.out, torch.card())
    record.add(machine(torch))
    # The rate of a copy is what everything that memory bounds is held to.
    if "copy" not in parts and not any(row["section"] == "copy" for row in record.rows):
        parts.insert(0, "copy")
    for part in parts:
        measure(part, options, torch, record, deadline)
        record.write_table()
    print(f"\n{record.write_table()}")
    print(gpu_table.summary(record.rows))
    failed = [row for row in record.rows if "error" in row and row["who"] == "isogloss"]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
