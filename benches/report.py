#!/usr/bin/env python3
"""A million score rows to a full report, and how its page opens.

    python3 benches/report.py [--venv DIR] [--shape grid|sets] [--items 250] [--out raw.json] [--keep DIR]

Writes, from a seed, the scores (three metrics) and generations of a study of 40 mixtures, 11 languages and 3 seeds: `grid` has 8 sets
of training languages at 5 n each, `sets` has 20 sets at 2 n. Then times `isogloss report` on two threads, and headless Chromium opening
index.html from the file, three times each; medians. The machine should be otherwise idle; the load average is printed.

Goals: the report within 30 s on 2 cores, the page at most 10 MB and open within 2 s.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

LANGS = ["en", "es", "fr", "ja", "zh-Hans", "ar", "ko", "pt", "de", "sw", "th"]
SETS = ["en", "es", "fr", "ja", "zh-Hans", "de", "ar", "sw"]
SEEDS = [1, 2, 3]
WORDS = "der die zwei tres quatre 五 الكتاب ราคา moja number apples left market 사과 then answer is euros each".split()
RUNS = 3


def mixtures(shape):
    """(training languages, n) of the 40 mixtures."""
    if shape == "grid":
        sets = [["en", one] for one in SETS[1:]] + [SETS[:5]]
        return [(langs, n) for langs in sets for n in (0, 100, 400, 1600, 5000)]
    pairs = [["en", a, b] for at, a in enumerate(SETS[1:]) for b in SETS[at + 2:]][:20]
    return [(langs, n) for langs in pairs for n in (0, 1000)]


def write(folder, shape, items):
    """One scores and one generations file a run, as the pipeline leaves them; the number of score rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, rows = random.Random(1), 0
    for at, (langs, n) in enumerate(mixtures(shape)):
        for seed in SEEDS:
            run = f"m{at}.s{seed}"
            scores = {name: [] for name in ["example_id", "item_id", "lang", "metric", "value", "detail"]}
            texts = {name: [] for name in ["example_id", "item_id", "lang", "prompt", "generation", "reference"]}
            for lang in LANGS:
                level = 0.7 if lang == "en" else 0.3 + (0.35 if lang in langs else 0.08) * (n / (n + 400))
                for item in range(items):
                    right = rng.random() < level + 0.1 * ((item * 37) % 10 - 5) / 10 + 0.02 * (seed - 2)
                    other = rng.random() < 0.1
                    name = f"item-{item}"
                    for metric, value, detail in [
                        ("exact_match", float(right), None),
                        ("language_fidelity", float(not other), "answer in en" if other else None),
                        ("extracted", float(right or rng.random() < 0.9), None),
                    ]:
                        for column, cell in zip(scores, [f"{name}@{lang}", name, lang, metric, value, detail]):
                            scores[column].append(cell)
                    prompt = " ".join(WORDS[(item * 7 + k) % len(WORDS)] for k in range(60))
                    answer = " ".join(rng.choices(WORDS, k=40))
                    for column, cell in zip(texts, [f"{name}@{lang}", name, lang, prompt, answer, str(item)]):
                        texts[column].append(cell)
            factors = {"run_id": run, "task": "math", "model": "m", "setting": "single-task", "train_langs": ",".join(langs),
                       "n": n, "data_seed": seed, "train_seed": seed}
            for kind, columns in [("scores", scores), ("generations", texts)]:
                count = len(columns["lang"])
                table = pa.table({**{name: [value] * count for name, value in factors.items()}, **columns})
                if kind == "scores":
                    rows += count
                pq.write_table(table, folder / f"{kind}-{run}.parquet", compression="zstd")
    return rows


def opened(page):
    """Seconds from the call to navigate until the page is loaded and painted, in a fresh headless Chromium."""
    profile = tempfile.mkdtemp()
    command = f"exec chromium --headless --no-sandbox --disable-gpu --user-data-dir={profile} --remote-debugging-pipe 3<&0 4>&1 0</dev/null >/dev/null 2>&1"
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    state = {"id": 0, "buffer": b"", "events": []}

    def read():
        while b"\0" not in state["buffer"]:
            state["buffer"] += os.read(process.stdout.fileno(), 1 << 20)
        message, state["buffer"] = state["buffer"].split(b"\0", 1)
        return json.loads(message)

    def call(method, params=None, session=None):
        state["id"] += 1
        message = {"id": state["id"], "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        process.stdin.write(json.dumps(message).encode() + b"\0")
        process.stdin.flush()
        while (answer := read()).get("id") != state["id"]:
            state["events"].append(answer.get("method"))
        return answer["result"]

    target = call("Target.createTarget", {"url": "about:blank"})["targetId"]
    session = call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
    call("Page.enable", session=session)
    call("Emulation.setDeviceMetricsOverride", {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}, session)
    start = time.perf_counter()
    call("Page.navigate", {"url": f"file://{page}"}, session)
    while "Page.loadEventFired" not in state["events"]:
        state["events"].append(read().get("method"))
    painted = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    call("Runtime.evaluate", {"expression": painted, "awaitPromise": True}, session)
    seconds = time.perf_counter() - start
    process.stdin.close()
    process.wait(timeout=20)
    shutil.rmtree(profile, ignore_errors=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", help="an environment to install pyarrow into; made where there is none")
    parser.add_argument("--shape", choices=["grid", "sets"], default="grid")
    parser.add_argument("--items", type=int, default=250)
    parser.add_argument("--binary", help="an isogloss that is built already")
    parser.add_argument("--out", help="where the raw figures go")
    parser.add_argument("--keep", help="a folder for the study and its report")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(write(Path(options.write), options.shape, options.items))
        return
    if not options.binary:
        common.build()
    binary = options.binary or common.ROOT / "target/release/isogloss"
    python = common.peers(options.venv, ["pyarrow"])
    folder = Path(options.keep or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    command = [python, __file__, "--write", folder, "--shape", options.shape, "--items", str(options.items)]
    rows = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    scores = sorted(map(str, folder.glob("scores-*.parquet")))
    samples = [part for path in sorted(map(str, folder.glob("generations-*.parquet"))) for part in ("--samples", path)]
    seconds, openings = [], []
    for run in range(RUNS):
        out = folder / f"report{run}"
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run([binary, "report", *scores, *samples, "--out", out, "--threads", "2", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
        if shutil.which("chromium"):
            openings.append(opened(out / "index.html"))
    page = (folder / "report0" / "index.html").stat().st_size
    raw = {"shape": options.shape, "rows": rows, "report_seconds": seconds, "page_bytes": page, "open_seconds": openings, "load": os.getloadavg()}
    print(f"{rows:,} score rows to a report: {statistics.median(seconds):.1f} s (goal 30) on 2 threads; load {raw['load'][0]:.1f}")
    print(f"page: {page / 1e6:.2f} MB (goal 10)" + (f", open in {statistics.median(openings):.2f} s (goal 2)" if openings else "; no Chromium to open it in"))
    if options.out:
        Path(options.out).write_text(json.dumps(raw, indent=1))
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
