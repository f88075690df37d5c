"""Tokenising and packing beside TRL: 100,000 conversations with one tokenizer, the same cores, turn by turn in one run.

    python benches/encode.py [--venv PATH] [--rows 100000] [--rounds 3] [--tokenizer DIR] [--data JSONL]

Ours is the whole command `isogloss train --dry-run`: start, tokenizer, Parquet, chat template, loss mask, tokens, packing, checks.
TRL's is `SFTTrainer`'s own preparation of the dataset (chat template, assistant mask, tokens, labels, packing by best fit), timed
from within, without Python's start, imports and the making of the dataset; `dataset_num_proc` is the number of cores. Both train on
assistant tokens alone and pack to 2,048. The number of tokens must agree. Rows are made by `isogloss synth`, or with --data taken
from a file of JSON lines with `messages`, repeated with a number before the first message until there are enough. Needs cargo.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

LENGTH = 2048
SHAPE = "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nmax_position_embeddings = 2048\n"
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}{%- if message.role == 'assistant' %}"
    "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}{%- else %}{{- message.content + '<|im_end|>' }}"
    "{%- endif %}{{- '\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def rows(folder, options, run):
    """Conversations with their languages, as many as asked for: those there are, told apart by a number where they repeat."""
    if options.data:
        lines = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    else:
        run("synth", "--languages", "en,es,zh,fr,ja,ko,ar,pt", "--tasks", "math,instruction,summarization", "--train", "1400",
            "--validation", "0", "--test", "0", "--out", "raw")
        lines = [json.loads(line) for file in sorted(folder.glob("raw/*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    for index in range(options.rows):
        turn, place = divmod(index, len(lines))
        messages = [dict(message) for message in lines[place]["messages"]]
        if turn:
            messages[0]["content"] = f"{turn}. " + messages[0]["content"]
        yield {"messages": messages, "lang": lines[place].get("lang", "en")}


def prepare(folder, options, binary):
    """The rows as JSON lines for TRL and as ingested examples for us; a tokenizer with one template for both."""
    run = lambda *words: subprocess.run([binary, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(folder / "messages.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(folder, options, run))
    run("ingest", "messages.jsonl", "--task", "t", "--split", "train", "--dedup", "off", "--no-detect", "--out", "examples")
    tokenizer = folder / "tokenizer"
    if options.tokenizer:
        shutil.copytree(options.tokenizer, tokenizer, copy_function=shutil.copyfile)
    else:
        run("tokenizer", "--data", "examples", "--vocab-size", "8192", "--out", "tokenizer")
    (tokenizer / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "shape.toml").write_text(SHAPE)
    (folder / "train.toml").write_text(f"packing = true\nsequence_length = {LENGTH}\n")


def peer(folder, cores):
    """One preparation by TRL, in this process: seconds and tokens."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    import datasets
    import transformers
    import trl

    folder = Path(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    cache = tempfile.mkdtemp(dir=folder)
    dataset = datasets.load_dataset("json", data_files=str(folder / "messages.jsonl"), split="train", cache_dir=cache)
    args = trl.SFTConfig(output_dir=cache, packing=True, max_length=LENGTH, assistant_only_loss=True, dataset_num_proc=cores, report_to="none",
                         use_cpu=True, bf16=False, padding_free=False)
    found = {}

    class Timed(trl.SFTTrainer):
        def _prepare_dataset(self, *words, **named):
            start = time.perf_counter()
            found["dataset"] = super()._prepare_dataset(*words, **named)
            found["seconds"] = time.perf_counter() - start
            return found["dataset"]

    Timed(model=transformers.LlamaForCausalLM(config), args=args, train_dataset=dataset, processing_class=tokenizer)
    column = found["dataset"].data.column("input_ids")
    print(json.dumps({"seconds": found["seconds"], "tokens": sum(len(chunk.flatten()) for chunk in column.chunks), "sequences": len(column)}))
    shutil.rmtree(cache)


def ours(folder, binary, cores):
    """One dry run: seconds of the whole command, and what it said."""
    words = ["train", "--init", "shape.toml", "--tokenizer", "tokenizer", "--data", "examples", "--config", "train.toml", "--dry-run"]
    start = time.perf_counter()
    found = subprocess.run([binary, *words, "--threads", str(cores)], cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, found.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--tokenizer", type=Path, help="a folder with tokenizer.json; default: one trained on the rows")
    parser.add_argument("--data", type=Path, help="JSON lines with messages; default: made by isogloss synth")
    parser.add_argument("--binary", type=Path, help="a built isogloss, so as not to build it")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.peer, options.cores)

    binary = options.binary.resolve() if options.binary else common.ROOT / "target" / "release" / "isogloss"
    if not options.binary:
        common.build()
    python = common.peers(options.venv, ["trl==1.16.0", "datasets", "torch", "transformers", "pyarrow"])
    if Path(sys.executable) != python and Path(sys.prefix) != python.parent.parent:
        os.execv(python, [str(python), *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prepare(folder, options, binary)
        pairs = []
        for _ in range(options.rounds):
            seconds, said = ours(folder, binary, options.cores)
            words = [sys.executable, __file__, "--peer", str(folder), "--cores", str(options.cores)]
            theirs = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            pairs.append((seconds, theirs["seconds"]))
            print(f"isogloss {seconds:7.2f} s   TRL {theirs['seconds']:7.2f} s   {theirs['seconds'] / seconds:6.1f} times", flush=True)
        print(said)
        print("TRL:", theirs)
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{options.rows} rows, {options.cores} cores: {ratio:.1f} times as fast as TRL; asked: 5")
        return int(ratio < 5)


if __name__ == "__main__":
    sys.exit(main())
