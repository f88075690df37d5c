"""What a grid of adapters over one base costs: a command for each run, and the grid in one command, turn by turn.

    python benches/grid.py [--only small|qwen] [--batch N] [--rounds 3] [--threads 2] [--binary isogloss] [--ways NAME,...]

Each way trains the same mixtures (synthetic word problems in three languages) and all have to write the same bytes:

    commands   `isogloss train` once for each mixture, one after the other
    jobs       `isogloss run --jobs 2` with side_by_side = 1
    together   `isogloss run` as it is, which trains adapters side by side

`small` is the shipped base of 1.2M parameters, `qwen` the shape of Qwen2.5 0.5B with random weights in bf16, four steps
of few rows and two validations of six documents: the low-resource end of a study. Data are made, mixed and in the page cache before the clock starts. CPU
seconds are those of the processes in user and system mode. Needs cargo, unless it is given binaries.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import common

# What differs from shape to shape: the mixtures, the training and the validation.
SHAPES = {
    "small": dict(english=200, n=[0, 25, 100, 400], seeds=10, validation=10, train="epochs = 1\nbatch_size = {batch}\n", batch=16),
    "qwen": dict(english=16, n=[0, 4, 8, 16], seeds=2, validation=2, train="steps = 4\nbatch_size = {batch}\nvalidate_every = 4\n", batch=1),
}
LORA = "rank = 16\nalpha = 32\n"
PIPELINE = """name = "grid"
[languages]
seen = ["en", "es", "zh"]
unseen = ["pt"]
[synth]
tasks = ["math"]
train = 500
validation = {validation}
test = 4
[ingest]
dedup = "exact"
detect = false
[mix]
tasks = ["math"]
english = {english}
n = {n}
seeds = {seeds}
leakage = {{ ngram = 0 }}
validation = {{ per_language = {validation} }}
[[model]]
name = "base"
path = "base"
[train]
learning_rate = 1e-3
device = "cpu"
{train}{more}[train.lora]
{lora}
[prompts]
shots = 0
"""


def isogloss(binary, *arguments, cwd):
    found = subprocess.run([binary, "--quiet", *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise SystemExit(f"isogloss {' '.join(map(str, arguments))} ended with status {found.returncode}")
    return found.stdout


def prepare(name, folder, binary, step, batch):
    """A folder with the base, the pipeline files and the mixtures; the mixtures' files."""
    facts, base = SHAPES[name], folder / "base"
    shutil.copytree(common.ROOT / "pipelines" / "base", base)
    if name == "qwen":
        (base / "model.safetensors").unlink()
        subprocess.run([step, "--shape", "qwen", "--work", "save", "--model", base, "--dtype", "bf16"], check=True)
    train = facts["train"].format(batch=batch or facts["batch"])
    facts = facts | dict(seeds=list(range(1, facts["seeds"] + 1)), lora=LORA, train=train)
    (folder / "together.toml").write_text(PIPELINE.format(more="", **facts))
    (folder / "jobs.toml").write_text(PIPELINE.format(more="side_by_side = 1\n", **facts))
    (folder / "train.toml").write_text(f"learning_rate = 1e-3\ndevice = \"cpu\"\n{train}[lora]\n{LORA}")
    for stage in ("synth", "ingest", "mix"):
        isogloss(binary, "run", "together.toml", "--only", stage, cwd=folder)
    mix = folder / isogloss(binary, "path", "together.toml", "mix", cwd=folder).strip()
    return sorted(mix.glob("mixtures/*/mixture.parquet")), mix / "validation.parquet"


def adapters(folder):
    """The hashes of all adapters below a folder."""
    files = folder.glob("**/model/adapter_model.safetensors")
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def measure(way, folder, mixtures, validation, binary, threads):
    """Seconds by the clock and on the processors, and what came out."""
    out, common_flags = folder / "out", ["--threads", str(threads)]
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder / "runs", out)
    subprocess.run(["sync"], check=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if way == "commands":
        for index, mixture in enumerate(mixtures):
            flags = ["--model", "base", "--data", mixture, "--validation", validation, "--config", "train.toml"]
            isogloss(binary, "train", *flags, *common_flags, "--out", out / str(index), cwd=folder)
    else:
        jobs = ["--jobs", "2"] if way == "jobs" else []
        isogloss(binary, "run", f"{way}.toml", "--only", "train", "--store", out, *jobs, *common_flags, cwd=folder)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, adapters(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--batch", type=int, help="documents of a step, in place of the shape's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--binary", help="a built isogloss, so as not to build it")
    parser.add_argument("--step", help="a built benchmark of the engine, so as not to build it")
    parser.add_argument("--ways", default="commands,jobs,together")
    options = parser.parse_args()
    step = options.step or common.build()
    binary = Path(options.binary or common.ROOT / "target" / "release" / "isogloss").resolve()
    ways = options.ways.split(",")
    print(f"{'shape':6} {'way':9} {'runs':>4} {'seconds':>8} {'low':>7} {'high':>7} {'CPU s':>7} {'of ' + ways[0]:>12}   {options.threads} threads")
    for name in SHAPES:
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            mixtures, validation = prepare(name, folder, binary, step, options.batch)
            found = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way in ways:
                    found[way].append(measure(way, folder, mixtures, validation, binary, options.threads))
            written = {json.dumps(made) for rounds in found.values() for _, _, made in rounds}
            assert len(written) == 1, "not all ways wrote the same adapters"
            for way, rounds in found.items():
                seconds, cpu, _ = zip(*rounds)
                ratio = statistics.median(one / first for one, (first, _, _) in zip(seconds, found[ways[0]]))
                median = statistics.median(seconds)
                print(f"{name:6} {way:9} {len(mixtures):4} {median:8.2f} {min(seconds):7.2f} {max(seconds):7.2f} {statistics.median(cpu):7.2f} {ratio:12.2f}", flush=True)


if __name__ == "__main__":
    main()
