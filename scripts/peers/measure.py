"""Runs one measurement: a process, what it prints and when, the CPU time that it had used then."""
from __future__ import annotations  # Python 3.9 is what some hosts have

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from cases import HESPER, Case

ROOT = Path(__file__).parents[2]  # scripts/venus-host shows a command the folder that it is run in


class Failed(Exception):
    """A measurement that gave no result, and why."""


class OverTime(Failed):
    """It was ended by its limit."""


@dataclass
class Line:
    text: str
    seconds: float      # since the process's start
    cpu_seconds: float  # of all its threads since then, user and system


@dataclass
class Run:
    out: list[Line] = field(default_factory=list)
    errors: list[Line] = field(default_factory=list)
    seconds: float = 0.0
    load_average: float = 0.0  # of the machine, over the minute before


def process_cpu_seconds(pid: int) -> float:
    """Linux's CPU clock of a process, in nanoseconds' precision (clock_getcpuclockid(3) makes its id so); 0 when it has
    just ended."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def run(command: Sequence[str], limit: float) -> Run:
    """The lines of a command that ends well within so many seconds. The process must stay the one that is started: a
    script in between has to `exec`."""
    result = Run(load_average=os.getloadavg()[0])
    start = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="replace", start_new_session=True, cwd=ROOT)
    arrived: queue.Queue[tuple[list[Line], Line] | None] = queue.Queue()

    def read(stream: TextIO, lines: list[Line]) -> None:
        for text in stream:
            arrived.put((lines, Line(text.rstrip("\n"), time.monotonic() - start, process_cpu_seconds(process.pid))))
        arrived.put(None)

    assert process.stdout and process.stderr
    readers = [threading.Thread(target=read, args=pair, daemon=True)
               for pair in ((process.stdout, result.out), (process.stderr, result.errors))]
    for reader in readers:
        reader.start()
    ended = 0
    try:
        while ended < len(readers):
            item = arrived.get(timeout=max(start + limit - time.monotonic(), 0))
            if item is None:
                ended += 1
            else:
                item[0].append(item[1])
        process.wait(max(start + limit - time.monotonic(), 0.1))
    except (queue.Empty, subprocess.TimeoutExpired) as error:
        raise OverTime(f"over {limit:g} s") from error
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its group: nothing stays behind, whatever happened
        except ProcessLookupError:
            pass
        process.wait()
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()
    result.seconds = time.monotonic() - start
    if process.returncode != 0:
        last = " / ".join(line.text for line in result.errors[-3:])
        raise Failed(f"status {process.returncode}: {last}")
    return result


def records(run: Run) -> list[tuple[dict[str, Any], Line]]:
    """llama-bench's and `hesper bench`'s JSON objects, one for each test."""
    found = []
    for line in run.out:
        if line.text.startswith("{"):
            try:
                found.append((json.loads(line.text), line))
            except ValueError as error:
                raise Failed(f"no JSON object: {line.text[:200]}") from error
    return found


def load_seconds(run: Run, program: str) -> float | None:
    """Hesper says how long it loaded. llama-bench's progress tells when it begins and when it is ready for its first run."""
    if program == HESPER:
        said = [re.search(r"Loaded [\d.]+ GB in ([\d.]+) s", line.text) for line in run.errors]
        return next((float(one[1]) for one in said if one), None)
    begun = [line.seconds for line in run.errors if re.search(r"benchmark 1/\d+: starting", line.text)]
    ready = [line.seconds for line in run.errors if re.search(r"benchmark 1/\d+: .* run", line.text)]
    return ready[0] - begun[0] if begun and ready else None


def device(record: Mapping[str, Any]) -> str:
    """Where it ran; Hesper names the driver too."""
    name = record["gpu_info"] or record.get("cpu_info", "")
    return f"{name} ({record['driver_info']})" if "driver_info" in record else name


def result_of(case: Case, run: Run, file_bytes: int) -> dict[str, Any]:
    """What is kept of a measurement."""
    found = records(run)
    expected = {(case.test.prompt, case.test.generated, case.test.depth)}
    mine = [pair for pair in found if case.test.is_first or
            (pair[0]["n_prompt"], pair[0]["n_gen"], pair[0]["n_depth"]) in expected]
    if len(mine) != 1:
        raise Failed(f"{len(mine)} results of {case.test.name} instead of one")
    record, line = mine[0]
    result: dict[str, Any] = {
        "status": "measured", "tokens_per_second": record["avg_ts"], "device": device(record),
        "backend": record["backends"], "build": record.get("build_number", record.get("build_version")),
        "load_average": round(run.load_average, 2), "process_seconds": round(run.seconds, 3),
    }
    if case.test.is_first:
        result["first_token_seconds"] = line.seconds
    elif case.test.generated and not case.test.depth:
        run_up = found[0]
        if run_up[1].cpu_seconds and line.cpu_seconds:
            result["cpu_ms_per_token"] = 1e3 * (line.cpu_seconds - run_up[1].cpu_seconds) / case.test.generated
    seconds = load_seconds(run, case.program)
    if seconds:
        result["load_seconds"] = seconds
        result["load_gb_per_second"] = file_bytes / 1e9 / seconds
    return result


def measured(case: Case, command: Sequence[str], file: Path, limit: float) -> dict[str, Any]:
    """The result of a case, also where there is none: then `status` is `over time` or `failed`, and `why` says more."""
    try:
        return result_of(case, run(command, limit), file.stat().st_size)
    except OverTime as error:
        return {"status": "over time", "why": str(error), "limit_seconds": limit}
    except Failed as error:
        return {"status": "failed", "why": str(error)}
