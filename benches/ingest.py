#!/usr/bin/env python3
"""Ingest of one JSONL beside datatrove, on the same cores in one run: MB/s, peak memory, ratios.

    python3 benches/ingest.py [--venv DIR] [--megabytes 200] [--runs 3] [--seed 1] [--out raw.json]

Builds target/release/isogloss, makes a virtual environment with the peers (.venv) if --venv names none, and writes a
JSONL of rows of about 400 bytes in eight languages (id, lang, prompt, completion) from a seed. Then, in turn, medians:

  reader and writer   datatrove JsonlReader + ParquetWriter (zstd)      isogloss ingest --no-detect --dedup off
  + identification    the same with py3langid on every prompt           isogloss ingest --dedup off
  + identification    the same with langdetect on every prompt          isogloss ingest --dedup off

Both sides write all four fields. Identification looks at the same text, the prompt, among the same eight languages (langdetect
cannot be restricted). isogloss further checks UTF-8, makes conversations, ids and references, settles the language by its rule,
checks ids for duplicates and writes rejects; its defaults (near duplicates removed) are timed as well, without a peer.

Caveats. datatrove gives a file to one worker, so that a single file uses one core; what it does with the file cut by hand
into one piece a core is shown beside it. Its time is that of executor.run(), without Python's start and imports; ours is that
of the whole process. langdetect is timed on a part of the rows (--langdetect-rows), since it is slow; its rate is what counts.
Memory is the largest resident size of a process; the second line of ours is on twice the input. The machine should be idle.

Goals: 5 times the reader and writer, 4 times with py3langid, 30 times with langdetect.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

ROOT = common.ROOT
PEERS = ["datatrove[io]==0.10.1", "py3langid==0.4.0", "langdetect==1.0.9"]
GOALS = {"none": 5, "py3langid": 4, "langdetect": 30}
WORDS = {
    "en": "the girl bought three apples and two oranges at the market yesterday then her neighbour asked how many pieces of fruit were left in the basket before the evening because some friends had already eaten them",
    "es": "la niña compró tres manzanas y dos naranjas en el mercado ayer y su vecina preguntó cuántas frutas quedaban en la cesta antes de la noche porque algunos amigos ya se las habían comido",
    "fr": "la fille a acheté trois pommes et deux oranges au marché hier puis sa voisine a demandé combien de fruits il restait dans le panier avant le soir parce que des amis les avaient déjà mangés",
    "pt": "a menina comprou três maçãs e duas laranjas no mercado ontem e a sua vizinha perguntou quantas frutas restavam na cesta antes da noite porque alguns amigos já as tinham comido",
    "ar": "اشترت الفتاة ثلاث تفاحات وبرتقالتين من السوق أمس ثم سألت جارتها كم بقي من الفاكهة في السلة قبل المساء لأن بعض الأصدقاء أكلوها",
    "ko": "소녀는 어제 시장에서 사과 세 개와 오렌지 두 개를 샀고 이웃은 저녁 전에 바구니에 과일이 몇 개 남았는지 물었다 친구들이 이미 먹었기 때문이다",
    "zh": "女孩 昨天 在 市场 买了 三个 苹果 和 两个 橙子 然后 邻居 问 晚上 之前 篮子 里 还剩 多少 水果 因为 有些 朋友 已经 吃掉 它们 了",
    "ja": "女の子は 昨日 市場で りんごを 三つと オレンジを 二つ 買いました それから 隣の人が 夕方までに かごに 果物が いくつ 残っているか 尋ねました 友達が もう 食べた からです",
}

PEER = r"""
import json, resource, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter
from loguru import logger
logger.remove()
identifier, languages, folder, pattern, out, workers, limit = sys.argv[1:]
workers, limit = int(workers), int(limit)

class Identify(PipelineStep):
    name = "identify"
    def __init__(self, identifier, languages):
        super().__init__()
        self.identifier, self.languages = identifier, languages
    def run(self, data, rank=0, world_size=1):
        if self.identifier == "py3langid":
            from py3langid import langid
            langid.set_languages(self.languages)
            detect = lambda text: langid.classify(text)[0]
        else:
            import langdetect
            langdetect.DetectorFactory.seed = 0
            detect = langdetect.detect
        for document in data:
            document.metadata["lang_detected"] = detect(document.text)
            yield document

steps = [JsonlReader(folder, glob_pattern=pattern, text_key="prompt", limit=limit)]
steps += [] if identifier == "none" else [Identify(identifier, languages.split(","))]
steps += [ParquetWriter(out, compression="zstd", expand_metadata=True)]
executor = LocalPipelineExecutor(steps, tasks=workers, workers=workers, logging_dir=out + "/logs")
start = time.perf_counter()
executor.run()
seconds = time.perf_counter() - start
# Of several workers' memory nobody keeps count.
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if workers == 1 else None
print(json.dumps({"seconds": seconds, "memory": memory}))
"""


def make_rows(path, megabytes, seed):
    """Rows of random words, each row in one language; returns the number of rows."""
    rng = random.Random(seed)
    words = {lang: text.split() for lang, text in WORDS.items()}
    languages, written, rows = sorted(words), 0, 0
    with open(path, "wb") as out:
        while written < megabytes * 1_000_000:
            lang = languages[rows % len(languages)]
            wide = len("".join(words[lang]).encode()) / len("".join(words[lang]))
            prompt, completion = (
                " ".join(rng.choices(words[lang], k=round(count / wide))) for count in (rng.randint(15, 45), rng.randint(15, 45))
            )
            row = {"id": f"row-{rows}", "lang": lang, "prompt": prompt, "completion": completion}
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            out.write(line)
            written += len(line)
            rows += 1
    return rows


def cut(path, folder, pieces):
    """The file cut at line ends into as many files."""
    folder.mkdir()
    size = path.stat().st_size // pieces
    with open(path, "rb") as whole:
        for piece in range(pieces):
            with open(folder / f"{piece}.jsonl", "wb") as out:
                out.write(whole.read() if piece == pieces - 1 else whole.read(size) + whole.readline())


def theirs(python, identifier, folder, pattern, workers, limit=-1):
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [python, "-c", PEER, identifier, ",".join(sorted(WORDS)), folder, pattern, out, str(workers), str(limit)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def ours(program, path, cores, *options):
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        command = [program, "ingest", path, "--quiet", "--threads", str(cores), "--out", f"{out}/examples"]
        command += ["--languages", ",".join(sorted(WORDS)), *options]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status != 0:
            sys.exit(f"isogloss failed: {command}")
        return {"seconds": seconds, "memory": usage.ru_maxrss * 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", help="a virtual environment with the peers (default: one is made)")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--langdetect-rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="write the raw figures here as JSON")
    arguments = parser.parse_args()

    common.build()
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "isogloss"
    cores = len(os.sched_getaffinity(0))
    python = common.peers(arguments.venv, PEERS)
    raw = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        one, two = folder / "rows.jsonl", folder / "double" / "rows.jsonl"
        two.parent.mkdir()
        rows = make_rows(one, arguments.megabytes, arguments.seed)
        make_rows(two, 2 * arguments.megabytes, arguments.seed)
        cut(one, folder / "cut", cores)
        part = sum(len(line) for line, _ in zip(open(one, "rb"), range(arguments.langdetect_rows)))
        whole = one.stat().st_size
        print(f"{rows} rows, {whole / 1e6:.0f} MB; {cores} cores, load {os.getloadavg()[0]:.1f}")
        cases = {  # name → run, bytes
            "datatrove": (lambda: theirs(python, "none", one.parent, "rows.jsonl", 1), whole),
            f"datatrove, cut into {cores} files": (lambda: theirs(python, "none", folder / "cut", "*.jsonl", cores), whole),
            "isogloss, no identification": (lambda: ours(program, one, cores, "--no-detect", "--dedup", "off"), whole),
            "isogloss, the same, twice the input": (lambda: ours(program, two, cores, "--no-detect", "--dedup", "off"), two.stat().st_size),
            "datatrove + py3langid": (lambda: theirs(python, "py3langid", one.parent, "rows.jsonl", 1), whole),
            f"datatrove + py3langid, cut into {cores}": (lambda: theirs(python, "py3langid", folder / "cut", "*.jsonl", cores), whole),
            "datatrove + langdetect (a part)": (lambda: theirs(python, "langdetect", one.parent, "rows.jsonl", 1, arguments.langdetect_rows), part),
            "isogloss, whatlang": (lambda: ours(program, one, cores, "--dedup", "off"), whole),
            "isogloss, the same, twice the input ": (lambda: ours(program, two, cores, "--dedup", "off"), two.stat().st_size),
            "isogloss, whatlang, near duplicates": (lambda: ours(program, one, cores), whole),
        }
        for _ in range(arguments.runs):  # in turn, so that all see the same machine
            for name, (run, size) in cases.items():
                raw.setdefault(name, []).append(run() | {"bytes": size})
    rate = {name: statistics.median(run["bytes"] / run["seconds"] / 1e6 for run in runs) for name, runs in raw.items()}
    memory = {name: max(run["memory"] or 0 for run in runs) / 1e6 for name, runs in raw.items()}
    print(f"{'':<40}{'MB/s':>8}{'peak MB':>9}")
    for name in raw:
        print(f"{name:<40}{rate[name]:>8.1f}" + (f"{memory[name]:>9.0f}" if memory[name] else f"{'-':>9}"))
    missed = False
    for peer, mine, goal in [
        ("datatrove", "isogloss, no identification", GOALS["none"]),
        ("datatrove + py3langid", "isogloss, whatlang", GOALS["py3langid"]),
        ("datatrove + langdetect (a part)", "isogloss, whatlang", GOALS["langdetect"]),
    ]:
        ratio = rate[mine] / rate[peer]
        missed |= ratio < goal
        print(f"{mine} is {ratio:.1f} times {peer} (goal: {goal})")
    for name in [name for name in rate if ", cut into" in name]:
        mine = "isogloss, whatlang" if "py3langid" in name else "isogloss, no identification"
        print(f"{mine} is {rate[mine] / rate[name]:.1f} times {name}")
    if arguments.out:
        figures = {"megabytes": arguments.megabytes, "rows": rows, "cores": cores, "runs": raw}
        Path(arguments.out).write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit("a goal is missed" if missed else 0)


if __name__ == "__main__":
    main()
