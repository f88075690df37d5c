"""Compares our scores with the reference tools' on real texts, pair by pair, to the last bit.

    python3 benches/parity.py --data DATA [--venv DIR] [--xlsum DIR --mecab DIR] [--pairs 6000]

DATA holds language_confusion/outputs (two models' answers to the same prompts in 15 languages: one is the hypothesis, the other the
reference), masakhanews (headline against text) and lid_lingua (sentences in 75 languages, spliced). --xlsum names a folder with XL-Sum's `rouge_score` and `bengali_stemmer`
and takes a virtual environment with what they need (see crates/eval/tests/fixtures/make_xlsum_pairs.py); --mecab a compiled dictionary, which
both sides use. Exit status 1 if any score differs; BLEU may in its last digits, because a platform's log and exp may.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from eval import PEERS, ROOT

PEER = r"""
import json, sys
from sacrebleu.metrics import BLEU, CHRF
pairs = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
xlsum, mecab = sys.argv[3:5]
if xlsum:
    sys.path[:0] = [xlsum, sys.argv[5]]
    from make_stems import turkish_is_sure, warm
    from make_xlsum_pairs import NAMES
from rouge_score import rouge_scorer
KINDS = {"1": "rouge1", "2": "rouge2", "l": "rougeL", "lsum": "rougeLsum"}
out = {}
def rouge(suffix, score):
    rows = [score(p) for p in pairs]
    for ours, kind in KINDS.items():
        out[f"rouge_{ours}_{suffix}"] = [None if row is None else float(row[kind].fmeasure) for row in rows]
if xlsum:
    scorers = {}
    def score(p):
        lang = p["lang"]
        if lang == "ja" and not mecab:
            return None
        if lang not in scorers:
            extra = {}
            if lang == "ja":
                import fugashi
                tagger = fugashi.GenericTagger(f"-O wakati -b 50000 -d {mecab} -r {mecab}/dicrc")
                extra = {"callable_tokenizer": lambda text: tagger.parse(text).split()}
            scorers[lang] = rouge_scorer.RougeScorer(list(KINDS.values()), use_stemmer=True, lang=NAMES.get(lang, "none"), **extra)
            if scorers[lang]._stemmer.stemmer:
                warm(NAMES.get(lang), scorers[lang]._stemmer.stemmer)
        if lang == "tr":
            words = scorers[lang]._tokenizer((p["hypothesis"] + " " + p["reference"]).lower())
            if not all(turkish_is_sure(w, None) for w in words if len(w) > 3):
                return None
        try:
            return scorers[lang].score(p["reference"], p["hypothesis"])
        except IndexError:
            return None
    rouge("xlsum", score)
else:
    for suffix, stem in (("ascii", False), ("ascii_stemmed", True)):
        scorer = rouge_scorer.RougeScorer(list(KINDS.values()), use_stemmer=stem)
        rouge(suffix, lambda p: scorer.score(p["reference"], p["hypothesis"]))
    tools = {"chrf": CHRF(), "chrf_plus_plus": CHRF(word_order=2)}
    tools |= {f"bleu_{t}": BLEU(effective_order=True, tokenize=t) for t in ("13a", "intl", "char", "zh", "none")}
    for name, tool in tools.items():
        out[name] = [tool.sentence_score(p["hypothesis"], [p["reference"]]).score for p in pairs]
json.dump(out, open(sys.argv[2], "w"))
"""


def pairs(data, count):
    """Yields (language, hypothesis, reference), cut to 1,500 characters: the reference tools' time grows with the square."""
    csv.field_size_limit(10**9)
    answers = {}
    for path in sorted((data / "language_confusion/outputs").glob("*.csv")):
        for row in csv.DictReader(open(path, encoding="utf-8", newline="")):
            key = (row["task"], row["source"], row["language"], row["id"])
            answers.setdefault(key, []).append(row["completion"])
    found = [(key[2], texts[0][:1500], texts[1][:1500]) for key, texts in sorted(answers.items()) if len(texts) > 1]
    for path in sorted((data / "masakhanews").glob("*/test.tsv")):
        rows = list(csv.DictReader(open(path, encoding="utf-8", newline=""), delimiter="\t"))[:150]
        found += [({"eng": "en", "swa": "sw", "xho": "xh", "yor": "yo"}.get(path.parent.name, "en"), r["headline"], r["text"][:1500]) for r in rows]
    for path in sorted((data / "lid_lingua").glob("*/sentences.txt")):
        lines = path.read_text(encoding="utf-8").split("\n")[:160]
        found += [(path.parent.name, a[: 2 * len(a) // 3] + " " + b, a + " " + c) for a, b, c in zip(lines, lines[1:], lines[2:])]
    step = max(1, len(found) // count)
    return [("zh-Hans" if lang == "zh" else lang, *texts) for lang, *texts in found[::step]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--venv")
    parser.add_argument("--xlsum", default="")
    parser.add_argument("--mecab", default="")
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--no-build", action="store_true", help="take the program as it stands")
    arguments = parser.parse_args()
    if not arguments.no_build:
        common.build()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release" / "examples" / "metric_speed"
    python = common.peers(arguments.venv, PEERS)
    fixtures = ROOT / "crates/eval/tests/fixtures"
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        texts, theirs, ours = (Path(folder) / name for name in ("pairs.jsonl", "theirs.json", "ours.txt"))
        found = pairs(arguments.data, arguments.pairs)
        lines = [json.dumps({"lang": l, "hypothesis": h, "reference": r}, ensure_ascii=False) for l, h, r in found]
        texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(found)} pairs in {len({l for l, _, _ in found})} languages")
        subprocess.run([python, "-c", PEER, texts, theirs, arguments.xlsum, arguments.mecab, fixtures], check=True, stderr=subprocess.DEVNULL)
        for metric, expected in json.loads(theirs.read_text()).items():
            command = [program, metric, texts, ours] + ([arguments.mecab] if arguments.mecab else [])
            subprocess.run(command, check=True, capture_output=True)
            values = [float(value) for value in ours.read_text().split()]
            compared = [(a, b) for a, b in zip(values, expected, strict=True) if b is not None]
            bits = sum(a == b for a, b in compared)
            near = 1e-12 if metric.startswith("bleu") else 0
            wrong = [i for i, (a, b) in enumerate(zip(values, expected)) if b is not None and not abs(a - b) <= near * abs(b)]
            print(f"{metric:<26}{len(compared):>7} compared{bits:>7} equal to the last bit{len(wrong):>5} differ")
            for i in wrong[:3]:
                print("   ", found[i][0], values[i], expected[i], repr(found[i][1][:60]))
            differ += len(wrong)
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
