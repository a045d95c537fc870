#!/usr/bin/env python3
"""Hesper, llama.cpp's Vulkan and its CPU backend by turns on the same files, driver and cores.

scripts/bench-peers starts this, and makes what it needs; its own --help says what the options mean.
"""
from __future__ import annotations  # Python 3.9 is what some hosts have

import argparse
import datetime
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cases
import measure
import models
import report
from cases import HESPER, LLAMA_CPU, LLAMA_VULKAN, Case

ROOT = Path(__file__).parents[2]
VENUS_HOST = str(ROOT / "scripts/venus-host")
SOFTWARE = ("lavapipe", "venus")
WHERE = {"lavapipe": [VENUS_HOST, "direct", "--"], "venus": [VENUS_HOST, "run", "--"], "host": []}
QUICK = ["--models", "qwen3-0.6b", "--types", "Q4_0", "--tests", "pp64,tg32,first-warm", "--rounds", "1"]


def names(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", allow_abbrev=False)
    parser.add_argument("--hesper", required=True, type=Path)
    parser.add_argument("--gpu", action="store_true", help="this machine's own driver, llama.cpp from --pack")
    parser.add_argument("--pack", type=Path, help="what `scripts/bench-peers pack` made")
    parser.add_argument("--models", type=names, help="shapes, or GGUF files")
    parser.add_argument("--types", type=names, default=models.TYPES)
    parser.add_argument("--models-dir", type=Path, default=ROOT / ".cache/models")
    parser.add_argument("--tests", type=names, default=cases.TESTS)
    parser.add_argument("--programs", type=names, default=cases.PROGRAMS)
    parser.add_argument("--drivers", type=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds for one measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of llama.cpp")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache/bench-peers/out")
    parser.add_argument("--resume", action="store_true", help="keep what is measured already")
    parser.add_argument("--quick", action="store_true", help=" ".join(QUICK))
    parser.add_argument("--models-only", action="store_true", help="make the files and end")
    words = list(words)
    if "--quick" in words:
        words = [*QUICK, *words]  # what else is given wins
    options = parser.parse_args(words)
    options.drivers = options.drivers or (["host"] if options.gpu else list(SOFTWARE))
    options.models = options.models or [shape for shape in models.SHAPES if options.gpu or shape != "llama-3.1-8b"]
    if options.gpu and not options.pack:
        parser.error("--gpu needs --pack DIR: make it with `scripts/bench-peers pack DIR` on a Debian")
    known = ["host"] if options.gpu else SOFTWARE
    for given, allowed in ((options.drivers, known), (options.programs, cases.PROGRAMS), (options.types, models.TYPES)):
        for name in given:
            if name not in allowed:
                parser.error(f"there is no {name}; there are: {', '.join(allowed)}")
    if options.rounds < 1 or options.limit <= 0 or not options.hesper.is_file():
        parser.error("--rounds and --limit are above 0, and --hesper is a program")
    try:
        options.tests = [cases.test(name) for name in options.tests]
    except cases.BadName as error:
        parser.error(str(error))
    return options


def llama(options: argparse.Namespace, program: str) -> list[str]:
    """The command of a program of llama.cpp, from the pack or from the tree."""
    if options.pack:
        return [str(options.pack.absolute() / "run"), program]
    return [VENUS_HOST, "direct", "--", program]


def files(options: argparse.Namespace) -> dict[str, Path]:
    """The model files by name, those of shapes made where they are not there."""
    found = {}
    for name in options.models:
        if name in models.SHAPES:
            made = [models.make(options.models_dir.absolute(), name, kind, llama(options, "llama-quantize"), options.threads)
                    for kind in options.types]
            found.update({file.stem: file for file in made})
        else:
            file = Path(name).absolute()
            if not file.is_file():
                sys.exit(f"error: --models: {name} is neither a GGUF file nor one of {', '.join(models.SHAPES)}")
            found[file.stem] = file
    for file in found.values():
        if not options.gpu and ROOT not in file.parents:
            sys.exit(f"error: {file} is outside of {ROOT}, which is all that the Debian tree shows; hard-link it into .cache/models")
    return found


def command(options: argparse.Namespace, case: Case, file: Path, cache: Path) -> list[str]:
    """What measures a case. `cache` is an empty folder, for caches of compiled kernels."""
    environment = {}
    if case.test.name == "first-cold":
        environment = {name: str(cache) for name in ("XDG_CACHE_HOME", "MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH")}
    if case.program == LLAMA_VULKAN and case.driver in SOFTWARE:
        # By default it leaves software drivers out, and takes its slower way on them
        environment |= {"GGML_VK_VISIBLE_DEVICES": "0", "GGML_VK_DISABLE_COOPMAT": "1"}
    # By `env`, since scripts/venus-host too has a use for XDG_CACHE_HOME
    where = [*WHERE[case.driver], "env", *(f"{name}={value}" for name, value in environment.items())]
    bench = ["-m", str(file), "-r", "1", "-o", "jsonl", *case.test.arguments()]
    if case.program == HESPER:
        return [*where, str(options.hesper.absolute()), "bench", *bench, *(["--allow-software"] if case.driver in SOFTWARE else [])]
    place = ["-ngl", "99"] if case.program == LLAMA_VULKAN else ["-ngl", "0", "-dev", "none"]
    llama_bench = [str(options.pack.absolute() / "run")] if options.pack else []
    return [*where, *llama_bench, "llama-bench", *bench, *place, "-t", str(options.threads), "--progress"]


def warm_page_cache(file: Path) -> None:
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


class Run:
    """A run's results, each kept in a file of its own as soon as it is there."""

    def __init__(self, options: argparse.Namespace, paths: dict[str, Path]) -> None:
        self.options, self.paths = options, paths
        self.folder: Path = options.out / "measurements"
        self.done: list[tuple[Case, dict[str, Any]]] = []
        self.hesper = hashlib.sha256(options.hesper.read_bytes()).hexdigest()[:16]
        self.over_time: dict[tuple[str, str, str], dict[cases.Test, float]] = {}

    def program(self, case: Case) -> str:
        """Tells one Hesper from another."""
        return self.hesper if case.program == HESPER else case.program

    def is_worth_keeping(self, result: dict[str, Any]) -> bool:
        status = result["status"]
        return status == "measured" or (status == "over time" and result["limit_seconds"] >= self.options.limit)

    def result(self, case: Case) -> dict[str, Any]:
        kept = self.folder / case.path
        if self.options.resume and kept.exists():
            result = json.loads(kept.read_text(encoding="utf-8"))
            if result["program"] == self.program(case) and self.is_worth_keeping(result):
                return result
        why = cases.hopeless(case, self.over_time)
        if why:
            return {"status": "skipped", "why": why}
        file = self.paths[case.model]
        if case.test.is_first:
            warm_page_cache(file)
        # Below the folder of results, since the tree shows no other folder for temporary files
        with tempfile.TemporaryDirectory(dir=self.options.out) as empty:
            words = command(self.options, case, file, Path(empty))
            if case.test.name == "first-warm":  # what it compiles is in caches afterwards
                measure.measured(case, words, file, self.options.limit)
            result = measure.measured(case, words, file, self.options.limit)
        result |= {"program": self.program(case), "time": now()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return result

    def measure(self, planned: Sequence[Case]) -> None:
        for number, case in enumerate(planned, 1):
            result = self.result(case)
            if result["status"] == "over time":
                self.over_time.setdefault((case.driver, case.model, case.program), {})[case.test] = result["limit_seconds"]
            self.done.append((case, result))
            said = " ".join(f"{figure} {result[figure]:.4g}" for figure in report.FIGURES if result.get(figure) is not None)
            print(f"{number}/{len(planned)} {case.driver} {case.model} {case.test.name} {case.program}: {said or result['why']}",
                  file=sys.stderr, flush=True)


def revision() -> str:
    try:
        return subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def facts(run: Run, words: Sequence[str]) -> dict[str, str]:
    """Machine, date, versions, command."""
    good = [(case, result) for case, result in run.done if result["status"] == "measured"]

    def seen(programs: Sequence[str], key: str) -> str:
        values = {str(result[key]) for case, result in good if case.program in programs}
        return ", ".join(sorted(values)) or "–"

    dates = [result["time"] for _, result in good]
    loads = [result["load_average"] for _, result in good]
    return {
        "time": f"{min(dates)} to {max(dates)}" if dates else now(),
        "command": shlex.join(["scripts/bench-peers", *words]),
        "machine": f"{os.cpu_count()} cores, {processor()}, {platform.system()} {platform.release()}",
        "load before a measurement": f"{min(loads):.1f} to {max(loads):.1f}" if loads else "–",
        "Hesper": f"{seen([HESPER], 'build')} (revision {revision()}) on {seen([HESPER], 'device')}",
        "llama.cpp": f"build {seen([LLAMA_VULKAN, LLAMA_CPU], 'build')} on {seen([LLAMA_VULKAN], 'device')}; CPU backend with "
                     f"{run.options.threads} threads; cooperative matrices {'on' if run.options.gpu else 'off, its faster setting here'}",
        "rounds": f"{run.options.rounds}, by turns; limit of a measurement {run.options.limit:g} s",
    }


def main(words: Sequence[str]) -> int:
    options = arguments(words)
    paths = files(options)
    if options.models_only:
        return 0
    options.out = options.out.absolute()
    if not options.resume:
        shutil.rmtree(options.out / "measurements", ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options, paths)
    run.measure(list(cases.cases(options.drivers, list(paths), options.tests, options.programs, options.rounds)))
    known = facts(run, words)
    found = report.Report(report.collected(run.done), options.drivers, list(paths), options.tests, options.programs)
    text = found.markdown(known)
    (options.out / "peers.md").write_text(text, encoding="utf-8")
    (options.out / "peers.json").write_text(json.dumps(found.document(known), indent=1) + "\n", encoding="utf-8")
    if any(not test.is_first for test in options.tests):
        for driver in options.drivers:
            (options.out / f"peers-{driver}.svg").write_text(found.picture(driver, known), encoding="utf-8")
    print(text)
    failed = [case for case, result in run.done if result["status"] == "failed"]
    for case in failed:
        print(f"error: failed: {case.path}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended too
    sys.exit(main(sys.argv[1:]))
