"""What the benchmarks share: the build, and a virtual environment with the peers."""

import json
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def build():
    """Builds everything, as `make` does, so that nothing is built twice; the path of the training benchmark."""
    command = ["cargo", "build", "--release", "--workspace", "--all-targets", "--locked", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "step")


def peers(folder, packages):
    """The Python of a virtual environment that has these packages, made where there is none."""
    folder = Path(folder or VENV)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    return python
