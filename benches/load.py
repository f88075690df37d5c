"""Loading a model's weights side by side with safetensors and torch, and with no more than reading the file: GB of file a second.

    python benches/load.py [--venv PATH] [--threads 2] [--rounds 5]

A bf16 file of the shape of Qwen2.5 0.5B, from the page cache, becomes f32 in new memory, as training on a processor wants
it: by the engine; by safetensors.torch.load_file and a cast of each tensor. `read` copies the file's bytes into new memory by
as many threads and converts nothing; the bf16 bytes are half of what the others write. Each measurement is a process of its own, turn by
turn. Without --venv one is made (.venv) and torch and safetensors are installed into it. Needs cargo.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common


def torch_load(path, threads):
    """Seconds of safetensors and torch."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    start = time.perf_counter()
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    seconds = time.perf_counter() - start
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    return seconds


def read(path, threads):
    """Seconds of reading the file into new memory."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    size, file = os.path.getsize(path), os.open(path, os.O_RDONLY)
    step = 16 << 20
    start = time.perf_counter()
    into = memoryview(bytearray(size))
    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(lambda at: os.preadv(file, [into[at : at + step]], at), range(0, size, step))
        assert sum(done) == size
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        name, path = args.peer
        print(json.dumps({"seconds": {"torch": torch_load, "read": read}[name](path, args.threads)}))
        return
    python, step = common.peers(args.venv, ["torch", "safetensors", "numpy"]), common.build()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([step, "--shape", "qwen", "--work", "save", "--model", folder, "--dtype", "bf16"], check=True)
        path = Path(folder) / "model.safetensors"
        size, threads = path.stat().st_size, str(args.threads)
        path.read_bytes()
        ours = [step, "--work", "load", "--model", folder, "--threads", threads]
        peer = [python, __file__, "--threads", threads, "--peer"]
        commands = {"ours": ours, "torch": [*peer, "torch", path], "read": [*peer, "read", path]}
        seconds = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds[name].append(json.loads(out.splitlines()[-1])["seconds"])
        for name, all_seconds in seconds.items():
            rates = [size / one / 1e9 for one in all_seconds]
            median, low, high = statistics.median(rates), min(rates), max(rates)
            print(f"{name:6} {median:5.2f} GB/s ({low:.2f} to {high:.2f})")
    if statistics.median(seconds["ours"]) > statistics.median(seconds["torch"]):
        sys.exit("loading is slower than safetensors and torch")


if __name__ == "__main__":
    main()
