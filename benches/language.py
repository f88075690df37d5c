#!/usr/bin/env python3
"""Language identification beside whatlang alone, lingua, langdetect and py3langid: accuracy by language and length, and cost.

    python3 benches/language.py --data DIR [--venv DIR] [--languages 27|sw|models] [--half odd|even|both] [--out raw.json]

DIR holds lid_lingua (lingua's own test data: sentences, word pairs and single words in 75 languages), lid_ntrex (news sentences,
close pairs among them) and lid_udhr (the Universal Declaration, by article), each as published. Every identifier is restricted to the
same languages: the 27 of lingua's tables that all of them know, the same and Swahili, or all 43 that the second stage has models
of (langdetect cannot be restricted: its answers are taken as they are, and py3langid counts only over the languages it knows).
A text counts as right if the language is, whatever the script. All lines are given to each identifier one by one. What
counts is processor time, so that a busy machine does not matter much; starting is not counted.

Caveats. lid_lingua is from the collection that lingua's models are trained on, which flatters lingua and our second stage alike. The
thresholds of ours (when to trust whatlang, what a missing sequence of letters costs, how a margin becomes a confidence) were set on
the even lines (counted from 0) of lid_lingua, so `--half odd` are lines that had no say; lid_ntrex and lid_udhr had none at all.
langdetect is timed on a part of the lines (--langdetect-lines), since it is slow.

Goals on the 27 languages' sentences: lingua's accuracy to half a point, at 5 times its speed.
"""

import argparse
import collections
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import common

PEERS = ["lingua-language-detector==2.1.1", "langdetect==1.0.9", "py3langid==0.4.0"]
COMMON = "ar bn cs da de el en es fa fr he hi id it ja ko nl pl pt ru sv te th tr uk vi zh".split()
MODELS = (
    "af ar bg ca cs cy da de en es eu fa fi fr ga hi id it lg mi mr ms nb nl pl pt ro ru sn so st sv sw tl tn tr ts uk ur vi xh yo zu"
).split()
NTREX = {  # what of it is here, by our tag
    "arb": "ar", "ben": "bn", "ces": "cs", "deu": "de", "eng": "en", "fra": "fr", "hin": "hi", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko",
    "pol": "pl", "por": "pt", "por-BR": "pt", "rus": "ru", "spa": "es", "swa": "sw", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi",
    "zho-CN": "zh", "zho-TW": "zh",
}  # fmt: skip
UDHR = {
    "arb": "ar", "ben": "bn", "ces": "cs", "dan": "da", "deu": "de", "ell_monotonic": "el", "eng": "en", "spa": "es", "pes_1": "fa", "fra": "fr",
    "heb": "he", "hin": "hi", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pol": "pl", "por_PT": "pt", "rus": "ru", "swe": "sv",
    "swh": "sw", "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi", "cmn_hans": "zh", "yor": "yo", "xho": "xh", "zul": "zu",
    "som": "so", "sna": "sn", "sot": "st", "tsn": "tn", "tso_MZ": "ts", "lug": "lg", "mri": "mi", "eus": "eu", "cym": "cy", "gle": "ga", "afr": "af",
    "tgl": "tl", "mly_latn": "ms", "nob": "nb", "fin": "fi", "ron": "ro", "cat": "ca", "bul": "bg", "mar": "mr", "urd": "ur",
}  # fmt: skip
SAME = {"no": "nb", "fil": "tl", "cmn": "zh", "yue": "zh", "iw": "he"}

PEER = r"""
import json, sys, time
peer, languages, path, limit = sys.argv[1], sys.argv[2].split(","), sys.argv[3], int(sys.argv[4])
lines = open(path, encoding="utf-8", newline="\n").read().split("\n")[:-1]
lines = lines[::max(1, len(lines) // limit)] if limit else lines
if peer == "lingua":
    from lingua import IsoCode639_1, Language, LanguageDetectorBuilder
    codes = [getattr(IsoCode639_1, l.upper()) for l in languages if hasattr(IsoCode639_1, l.upper())]
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).with_preloaded_language_models().build()
    def detect(text):
        found = detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found else ""
elif peer == "py3langid":
    from py3langid import langid
    known = {label for label, _ in langid.rank("text")}
    langid.set_languages([l for l in languages if l in known])
    detect = lambda text: langid.classify(text)[0]
else:
    import langdetect
    langdetect.DetectorFactory.seed = 0
    def detect(text):
        try:
            return langdetect.detect(text)
        except langdetect.LangDetectException:
            return ""
detect("Makes the models ready, which is not counted.")
start = time.process_time()
found = [detect(line) for line in lines]
print(json.dumps({"seconds": time.process_time() - start, "found": found, "step": 1 if not limit else max(1, len(open(path, encoding="utf-8", newline="\n").read().split("\n")[:-1]) // limit)}))
"""


def lines_of(path, half="both"):
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    lines = [line for line in lines if line]
    return {"both": lines, "even": lines[::2], "odd": lines[1::2]}[half]


def sets(data, languages, half):
    """Test sets: name → [(language, text)]."""
    texts = collections.defaultdict(list)
    for kind in ("sentences", "word-pairs", "single-words"):
        for lang in languages:
            texts[f"lid_lingua {kind}"] += [(lang, line) for line in lines_of(data / "lid_lingua" / lang / f"{kind}.txt", half)]
    for code, lang in NTREX.items():
        kind = "src" if code == "eng" else "ref"
        path = data / "lid_ntrex" / f"newstest2019-{kind}.{code}.txt"
        if lang in languages:
            texts["lid_ntrex"] += [(lang, line) for line in lines_of(path)]
    for code, lang in UDHR.items():
        path = data / "lid_udhr" / "utf8" / f"{code}.txt"
        if lang in languages and path.exists():
            texts["lid_udhr"] += [(lang, line) for line in lines_of(path) if len(line) >= 40]
    return texts


def ours(program, mode, languages, path):
    nothing = path.with_name("nothing")
    nothing.write_text("")
    seconds = []
    for file in (nothing, path):
        with open(path.with_name("found"), "w+", encoding="utf-8") as out:
            process = subprocess.Popen([program, mode, ",".join(languages), file], stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                sys.exit(f"{program} {mode} failed")
            seconds.append(usage.ru_utime + usage.ru_stime)
            out.seek(0)
            found = [line.split("\t")[0].rstrip("\n") for line in out]
    return {"seconds": seconds[1] - seconds[0], "found": found, "step": 1}


def theirs(python, peer, languages, path, limit=0):
    command = [python, "-c", PEER, peer, ",".join(languages), path, str(limit)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def by_language(texts, run):
    """Accuracy in percent by language."""
    right, all_ = collections.Counter(), collections.Counter()
    for (lang, _), found in zip(texts[:: run["step"]], run["found"]):
        tag = found.split("-")[0]
        all_[lang] += 1
        right[lang] += SAME.get(tag, tag) == lang
    return {lang: 100 * right[lang] / all_[lang] for lang in all_}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--venv", help="a virtual environment with the peers (default: one is made)")
    parser.add_argument("--languages", choices=["27", "sw", "models"], default="sw")
    parser.add_argument("--half", choices=["odd", "even", "both"], default="odd")
    parser.add_argument("--langdetect-lines", type=int, default=2000)
    parser.add_argument("--no-build", action="store_true", help="the example is there already")
    parser.add_argument("--out", help="write the raw figures here as JSON")
    arguments = parser.parse_args()

    if not arguments.no_build:
        common.build()
    target = Path(os.environ.get("CARGO_TARGET_DIR", common.ROOT / "target"))
    program = target / "release" / "examples" / "identify"
    python = common.peers(arguments.venv, PEERS)
    languages = {"27": COMMON, "sw": [*COMMON, "sw"], "models": MODELS}[arguments.languages]
    identifiers = {
        "whatlang": lambda path: ours(program, "whatlang", ["all"], path),
        "whatlang, candidates": lambda path: ours(program, "whatlang", languages, path),
        "isogloss": lambda path: ours(program, "accurate", languages, path),
        "lingua": lambda path: theirs(python, "lingua", languages, path),
        "py3langid": lambda path: theirs(python, "py3langid", languages, path),
        "langdetect": lambda path: theirs(python, "langdetect", languages, path, arguments.langdetect_lines),
    }
    print(f"{len(languages)} languages, {arguments.half} lines of lid_lingua; {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    raw, macro, speed = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, texts in sets(arguments.data, languages, arguments.half).items():
            path = Path(folder) / "texts"
            path.write_text("".join(text + "\n" for _, text in texts), encoding="utf-8")
            print(f"\n{name}: {len(texts)} texts\n{'':<24}{'macro %':>9}{'texts/s':>10}  below 97 %")
            for identifier, run in identifiers.items():
                found = run(path)
                accuracy = by_language(texts, found)
                macro[name, identifier] = sum(accuracy.values()) / len(accuracy)
                speed[name, identifier] = len(found["found"]) / found["seconds"]
                raw[f"{name}, {identifier}"] = {"accuracy": accuracy, "texts_per_second": speed[name, identifier]}
                worst = sorted((a, lang) for lang, a in accuracy.items() if a < 97)
                shown = ", ".join(f"{lang} {a:.1f}" for a, lang in worst[:10]) + (" …" if len(worst) > 10 else "")
                print(f"{identifier:<24}{macro[name, identifier]:>9.2f}{speed[name, identifier]:>10,.0f}  {shown}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(raw, indent=1) + "\n")
    sentences = "lid_lingua sentences"
    lag = macro[sentences, "lingua"] - macro[sentences, "isogloss"]
    ratio = speed[sentences, "isogloss"] / speed[sentences, "lingua"]
    print(f"\nsentences: {lag:+.2f} points behind lingua (goal: 0.5), {ratio:.1f} times its speed (goal: 5)")
    sys.exit("a goal is missed" if lag > 0.5 or ratio < 5 else 0)


if __name__ == "__main__":
    main()
