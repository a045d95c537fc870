"""Model files to measure with: the shapes of well-known models, random weights, quantized by llama.cpp's llama-quantize.

Speed does not depend on what the weights say. A shape's F16 file is the source of its other types; the type of the
embedding, which is also the head where the two are tied, is what llama-quantize chooses.
"""
from __future__ import annotations  # Python 3.9 is what some hosts have

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SYNTH_GGUF: list[str | Path] = [ROOT / "scripts/bench-peers", "synth"]

# Arguments of synth_gguf, from the models' published configurations.
SHAPES: dict[str, str] = {
    "qwen3-0.6b": "--arch qwen3 --width 1024 --layers 28 --heads 16 --kv-heads 8 --head-dim 128 --feed-forward 3072 "
                  "--vocabulary 151936 --context 40960 --rope-base 1000000 --tied",
    "llama-3.2-1b": "--arch llama --width 2048 --layers 16 --heads 32 --kv-heads 8 --head-dim 64 --feed-forward 8192 "
                    "--vocabulary 128256 --context 131072 --rope-base 500000 --eps 1e-5 --rope-factors --tied",
    "llama-3.1-8b": "--arch llama --width 4096 --layers 32 --heads 32 --kv-heads 8 --head-dim 128 --feed-forward 14336 "
                    "--vocabulary 128256 --context 131072 --rope-base 500000 --eps 1e-5 --rope-factors",
}
TYPES = ["Q4_0", "Q8_0", "Q4_K_M", "Q6_K", "F16"]


def file_name(shape: str, kind: str) -> str:
    return f"{shape}-{kind.lower()}.gguf"


def run(command: Sequence[str | Path], log: Path) -> None:
    """Ends the program where the command fails, with its last lines."""
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                              cwd=ROOT)
    if done.returncode != 0:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        sys.exit(f"{last}\nerror: {command[0]} ended with status {done.returncode} (all of its output: {log})")


def make(folder: Path, shape: str, kind: str, quantize: Sequence[str], threads: int) -> Path:
    """The file of a shape and type in the folder, made if it is not there. `quantize` is the command llama-quantize."""
    file = folder / file_name(shape, kind)
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    source = file if kind == "F16" else make(folder, shape, "F16", quantize, threads)
    print(f"making {file}", file=sys.stderr, flush=True)
    part = file.with_suffix(".part")  # a file with a model's name is whole
    if kind == "F16":
        run([*SYNTH_GGUF, part, *SHAPES[shape].split()], file.with_suffix(".log"))
    else:
        run([*quantize, source, part, kind, str(threads)], file.with_suffix(".log"))
    part.rename(file)
    file.with_suffix(".log").unlink()
    return file
