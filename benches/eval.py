#!/usr/bin/env python3
"""ROUGE, chrF and BLEU side by side with rouge-score and sacreBLEU, on the same pairs in one run.

    python3 benches/eval.py [--venv DIR] [--pairs 10000] [--seed 1] [--out raw.json]

Builds the timing program (crates/eval/examples/metric_speed.rs), makes a virtual environment with the peers if --venv names none, writes
pairs of about 370 characters in six languages from a seed, checks that both sides give the same scores to the last bit (BLEU to the twelfth digit), then times them in turn:
five runs each, medians. Reading and parsing are not counted on either side. Ours runs with one thread and with all cores;
the peers have one. The machine should be otherwise idle; the load average is printed.

Goals, one thread against one: ROUGE-L at least 50 times rouge-score, chrF at least 15 times sacreBLEU.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import common

ROOT = common.ROOT
PEERS = ["rouge-score==0.1.2", "sacrebleu==2.6.0"]
RUNS = 5
WORDS = {
    "en": "the girl bought three apples and two oranges at the market yesterday then her neighbour asked how many pieces of fruit were left",
    "es": "la niña compró tres manzanas y dos naranjas en el mercado ayer y su vecina preguntó cuántas frutas quedaban en la cesta",
    "fr": "la fille a acheté trois pommes et deux oranges au marché hier puis sa voisine a demandé combien de fruits il restait",
    "ru": "девочка купила три яблока и два апельсина на рынке вчера потом соседка спросила сколько фруктов осталось в корзине",
    "ko": "소녀는 어제 시장에서 사과 세 개와 오렌지 두 개를 샀고 이웃은 바구니에 과일이 몇 개 남았는지 물었다",
    "zh": "女孩 昨天 在 市场 买了 三个 苹果 和 两个 橙子 然后 邻居 问 篮子 里 还剩 多少 水果",
}
METRICS = {  # ours → the peer's, and the goal
    "rouge_1_ascii": ("rouge-score rouge1", None),
    "rouge_2_ascii": ("rouge-score rouge2", None),
    "rouge_l_ascii": ("rouge-score rougeL", 50),
    "rouge_lsum_ascii": ("rouge-score rougeLsum", None),
    "rouge_l_ascii_stemmed": ("rouge-score rougeL, stemmer", 50),
    "rouge_l": (None, None),
    "rouge_l_xlsum": (None, None),
    "chrf": ("sacreBLEU chrF", 15),
    "chrf_plus_plus": ("sacreBLEU chrF++", 15),
    "bleu_13a": ("sacreBLEU BLEU", None),
    "bleu_intl": ("sacreBLEU BLEU, intl", None),
    "language_fidelity": (None, None),
    "line_pass": (None, None),
    "word_pass": (None, None),
}

PEER = r"""
import json, sys, time
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
pairs = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
pairs = [(p["hypothesis"], p["reference"]) for p in pairs]
def rouge(kind, stem=False):
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=stem)
    return lambda h, r: scorer.score(r, h)[kind].fmeasure
def sacrebleu(scorer):
    return lambda h, r: scorer.sentence_score(h, [r]).score
score = {"rouge_1_ascii": lambda: rouge("rouge1"), "rouge_2_ascii": lambda: rouge("rouge2"), "rouge_l_ascii": lambda: rouge("rougeL"),
         "rouge_lsum_ascii": lambda: rouge("rougeLsum"), "rouge_l_ascii_stemmed": lambda: rouge("rougeL", True),
         "chrf": lambda: sacrebleu(CHRF()), "chrf_plus_plus": lambda: sacrebleu(CHRF(word_order=2)),
         "bleu_13a": lambda: sacrebleu(BLEU(effective_order=True)),
         "bleu_intl": lambda: sacrebleu(BLEU(effective_order=True, tokenize="intl"))}[sys.argv[1]]()
start = time.perf_counter()
values = [float(score(h, r)) for h, r in pairs]
print(json.dumps({"seconds": time.perf_counter() - start, "values": values}))
"""


def make_pairs(path, count, seed):
    rng = random.Random(seed)
    languages = sorted(WORDS)
    characters = 0
    with open(path, "w", encoding="utf-8") as out:
        for index in range(count):
            lang = languages[index % len(languages)]
            words = WORDS[lang].split()
            reference = []
            while sum(map(len, reference)) + len(reference) < 370:
                reference.append(rng.choice(words) + rng.choice(["", "", "", "", ",", "."]))
            hypothesis = [rng.choice(words) if rng.random() < 0.3 else w for w in reference if rng.random() > 0.1]
            characters += len(" ".join(reference))
            pair = {"hypothesis": " ".join(hypothesis), "reference": " ".join(reference), "lang": lang}
            out.write(json.dumps(pair, ensure_ascii=False) + "\n")
    return characters / count


def ours(program, metric, pairs, threads, scores):
    command = [program, metric, pairs] + ([scores] if scores else [])
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return [float(line) for line in out.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", help="a virtual environment with rouge-score and sacrebleu (default: one is made)")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each peer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="write the raw figures here as JSON")
    arguments = parser.parse_args()

    common.build()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release" / "examples" / "metric_speed"
    cores = len(os.sched_getaffinity(0))
    raw, failed = {}, False
    with tempfile.TemporaryDirectory() as folder:
        python = common.peers(arguments.venv, PEERS)
        pairs, scores = Path(folder) / "pairs.jsonl", Path(folder) / "scores"
        length = make_pairs(pairs, arguments.pairs, arguments.seed)
        print(f"{arguments.pairs} pairs of {length:.0f} characters; {platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'metric':<24}{'peer/s':>10}{'ours/s, 1 thread':>18}{f'ours/s, {cores}':>12}{'ratio, 1':>10}{f'ratio, {cores}':>10}")
        for metric, (peer, goal) in METRICS.items():
            figures = {"peer": [], "one": [], "all": []}
            for run in range(arguments.runs if peer else 1):  # in turn, so that both see the same machine
                figures["one"] += ours(program, metric, pairs, 1, scores)
                figures["all"] += ours(program, metric, pairs, cores, None)
                if peer:
                    result = json.loads(subprocess.run([python, "-c", PEER, metric, pairs], check=True, capture_output=True, text=True).stdout)
                    figures["peer"].append(result["seconds"])
                    if run == 0:
                        mine = [float(line) for line in scores.read_text().split()]
                        worst = max(abs(a - b) for a, b in zip(mine, result["values"], strict=True))
                        if worst > (1e-12 if metric.startswith("bleu") else 0):
                            sys.exit(f"{metric}: scores differ from {peer} by up to {worst}")
            raw[metric] = figures
            rate = {side: arguments.pairs / statistics.median(times) for side, times in figures.items() if times}
            if peer:
                ratios = [rate[side] / rate["peer"] for side in ("one", "all")]
                failed |= goal is not None and ratios[0] < goal
                print(f"{metric:<24}{rate['peer']:>10,.0f}{rate['one']:>18,.0f}{rate['all']:>12,.0f}{ratios[0]:>10.1f}{ratios[1]:>10.1f}  {f'≥ {goal}' if goal else '':<4} {peer}")
            else:
                print(f"{metric:<24}{'':>10}{rate['one']:>18,.0f}{rate['all']:>12,.0f}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"pairs": arguments.pairs, "cores": cores, "seconds": raw}, indent=1))
    sys.exit("a goal is missed" if failed else 0)


if __name__ == "__main__":
    main()
