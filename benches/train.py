"""Training steps, of all weights and of an adapter beside them, and generation side by side with PyTorch: same shapes, same threads, f32, turn by turn in one run.

    python benches/train.py [--venv PATH] [--threads 2] [--rounds 3] [--seconds 5] [--only small|qwen]

The peer is transformers' LlamaForCausalLM and Qwen2ForCausalLM with torch's fused AdamW, PEFT's LoRA (rank 16, all linear maps), and `generate` with its KV cache,
greedy. Without --venv one is made (.venv) and torch, transformers and peft are installed into it. Needs cargo.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common

# Each: shape, work, batch, and the ratio that is asked for.
CASES = [
    ("small", "train", 32, 1.0),
    ("small", "lora", 32, 1.0),
    ("small", "generate", 1, 1.5),
    ("small", "generate", 16, 1.5),
    ("qwen", "train", 1, 1.0),
    ("qwen", "lora", 1, 1.0),
    ("qwen", "generate", 1, 1.5),
    ("qwen", "generate", 16, 1.5),
]
SHAPES = {
    "small": dict(vocab_size=4096, hidden_size=128, intermediate_size=384, num_hidden_layers=5, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True),
    "qwen": dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True),
}
# Tokens of a document in training, of a prompt and of an answer.
LENGTHS = {"small": (64, 64, 128), "qwen": (256, 64, 16)}


def median_time(work, seconds):
    """Median seconds of a call over at least `seconds`, after one that does not count."""
    work()
    start, times = time.perf_counter(), []
    while not times or time.perf_counter() - start < seconds:
        one = time.perf_counter()
        work()
        times.append(time.perf_counter() - one)
    return statistics.median(times)


def peer(shape, work, batch, threads, seconds):
    """One measurement of PyTorch, printed as the engine's benchmark prints it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    build = (LlamaConfig, LlamaForCausalLM) if shape == "small" else (Qwen2Config, Qwen2ForCausalLM)
    model = build[1](build[0](**SHAPES[shape], bos_token_id=None, eos_token_id=None)).float()
    document, prompt, answer = LENGTHS[shape]
    vocab = SHAPES[shape]["vocab_size"]
    if work in ("train", "lora"):
        if work == "lora":
            from peft import LoraConfig, get_peft_model

            rules = dict(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **rules))
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        ids = torch.randint(0, vocab, (batch, document))

        def once():
            optimizer.zero_grad(set_to_none=True)
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

        tokens = batch * document
    else:
        model.eval()
        ids = torch.randint(1, vocab, (batch, prompt))
        rules = dict(max_new_tokens=answer, min_new_tokens=answer, do_sample=False, pad_token_id=0)

        def once():
            with torch.no_grad():
                assert model.generate(ids, attention_mask=torch.ones_like(ids), **rules).shape[1] == prompt + answer

        tokens = batch * answer
    print(json.dumps({"tokens_per_second": tokens / median_time(once, seconds)}))


def run(command, threads):
    """The last line of a measurement's output, as JSON."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--engine", help="a built benchmark of the engine, so as not to build it")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        shape, work, batch = options.peer
        return peer(shape, work, int(batch), options.threads, options.seconds)

    engine, interpreter = options.engine or common.build(), common.peers(options.venv, ["torch", "transformers", "peft"])
    flags = ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    print(f"{'shape':6} {'work':9} {'batch':>5} {'isogloss':>10} {'PyTorch':>10} {'ratio':>6} {'asked':>6}   tokens/s, {options.threads} threads")
    short = False
    for shape, work, batch, asked in CASES:
        if options.only not in (None, shape):
            continue
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(run([engine, "--shape", shape, "--work", work, "--batch", str(batch), *flags], options.threads))
            theirs.append(run([interpreter, __file__, "--peer", shape, work, str(batch), *flags], options.threads))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        short |= ratio < asked
        print(f"{shape:6} {work:9} {batch:5} {statistics.median(ours):10.1f} {statistics.median(theirs):10.1f} {ratio:6.2f} {asked:6.1f}", flush=True)
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
