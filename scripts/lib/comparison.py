#!/usr/bin/env python3
"""From what scripts/compare measured to comparison.json, comparison.md and comparison.svg in the same folder.

    scripts/lib/comparison.py FOLDER

FOLDER holds facts.txt (lines `name: value`), load.json (`hesper load --compare … -o json`), and for each variant
bench-V.jsonl (`hesper bench -o jsonl`, a line for each test and round), serve-V.log, health-V.json and memory-V.txt
(`process ROLE`, then that process's /proc/PID/status, for each process).
"""
import json
import re
import statistics
import sys
from pathlib import Path

import chart

# Figure of `hesper load`, its name, unit, and what is better.
LOAD = [
    ("qps", "QPS", "answers/s", "more"),
    ("tokens_per_second", "Tokens per second", "output tokens/s", "more"),
    ("latency_ms_mean", "Latency, mean", "ms", "less"),
    ("latency_ms_p95", "Latency, P95", "ms", "less"),
    ("latency_ms_p99", "Latency, P99", "ms", "less"),
    ("first_token_ms_mean", "Time to first token, mean", "ms", "less"),
    ("inter_token_ms_mean", "Time between tokens, mean", "ms", "less"),
]
MEMORY = ["weights", "KV", "scratch", "held beyond weights and KV", "held", "peak"]
IN_TABLE = ["QPS", "tokens/s", "mean ms", "P95 ms", "P99 ms", "first token ms", "between tokens ms"]


class Incomplete(Exception):
    """A file that is not as it should be."""


def read(folder, name):
    try:
        return (folder / name).read_text(encoding="utf-8")
    except OSError as error:
        raise Incomplete(f"{name}: {error.strerror}") from error


def facts(folder):
    return dict(line.split(": ", 1) for line in read(folder, "facts.txt").splitlines() if ": " in line)


def bench(folder, variant):
    """Tokens per second of each test by its name, one for each round."""
    rates = {}
    for line in read(folder, f"bench-{variant}.jsonl").splitlines():
        record = json.loads(line)
        name = f"pp{record['n_prompt']}" if record["n_prompt"] else f"tg{record['n_gen']}"
        rates.setdefault(name, []).append(record["avg_ts"])
    if not rates:
        raise Incomplete(f"bench-{variant}.jsonl holds no result")
    return rates


def planned_mib(folder, variant):
    """MiB of weights, of the cache and of all else on the device that the server said it would take."""
    name = f"serve-{variant}.log"
    line = re.search(r"^Memory: weights ([\d.]+) / KV ([\d.]+) \(\w+\) / arena ([\d.]+) / other ([\d.]+) /", read(folder, name), re.MULTILINE)
    if not line:
        raise Incomplete(f"{name} has no line that begins with `Memory: weights`")
    return float(line[1]), float(line[2]), float(line[3]) + float(line[4])


def memory(folder, variant):
    """MiB of the server's process and of the far side's, at the end and at the peak, and what is beyond the model's."""
    weights, cache, scratch = planned_mib(folder, variant)
    processes = re.split(r"^process ", read(folder, f"memory-{variant}.txt"), flags=re.MULTILINE)[1:]
    peak = held = 0.0
    now_only = False
    for process in processes:
        fields = {name: int(value) / 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", process, re.MULTILINE)}
        if "VmRSS" not in fields:
            continue  # a process that has just ended
        now_only |= "VmHWM" not in fields
        peak += fields.get("VmHWM", fields["VmRSS"])
        held += fields["RssAnon"] + fields["RssShmem"] if "RssAnon" in fields else fields["VmRSS"]
    if not processes or peak == 0:
        raise Incomplete(f"memory-{variant}.txt tells of no process")
    planned = weights + cache
    return {
        "weights_mib": weights, "kv_mib": cache, "scratch_mib": round(scratch, 1),
        "scratch_share": round(scratch / planned, 4), "peak_mib": round(peak, 1), "held_mib": round(held, 1),
        "beyond_mib": round(held - planned, 1), "beyond_share": round((held - planned) / planned, 4),
        "peak_is_of_the_end": now_only,
    }


def compared(folder):
    """All that comparison.json holds."""
    known, load = facts(folder), json.loads(read(folder, "load.json"))
    variants = []
    for server in load["servers"]:
        name = server["name"]
        health = json.loads(read(folder, f"health-{name}.json"))
        rates = bench(folder, name)
        failed = sum(round["requests"] - round["succeeded"] for round in server["rounds"])
        variants.append({
            "name": name, "about": known[f"about {name}"],
            "device": f"{health['device']['name']} ({health['device']['driver']})",
            "version": known[f"version {'native' if name == 'native' else 'container'}"],
            "load": server["medians"], "failed_requests": failed,
            "bench": {test: {"median": statistics.median(values), "rounds": values} for test, values in rates.items()},
            "memory": memory(folder, name),
        })
    native = variants[0]
    for variant in variants:
        variant["kept_of_native"] = kept(variant, native)
    conditions = load["conditions"]
    return {**{key: known[key] for key in ("time", "command", "machine", "podman", "revision", "model", "bench")},
            "far_side": known.get("far side"), "conditions": conditions, "variants": variants}


def kept(variant, native):
    """Ratios of medians to native's: of rates, the larger the better; of times, the smaller the better."""
    figures = {key: (variant["load"][key], native["load"][key]) for key, *_ in LOAD}
    figures |= {test: (variant["bench"][test]["median"], native["bench"][test]["median"]) for test in native["bench"]}
    return {name: round(ours / base, 4) if ours is not None and base else None for name, (ours, base) in figures.items()}


def row(cells):
    return "| " + " | ".join(cells) + " |"


def ratio(value):
    return "–" if value is None else f"×{value:.3f}"


def speed_table(result):
    tests = list(result["variants"][0]["bench"])
    lines = [row(["", *IN_TABLE, *(f"bench {test} t/s" for test in tests)]), row(["---"] + ["---:"] * (len(IN_TABLE) + len(tests)))]
    for variant in result["variants"]:
        cells = [chart.number(variant["load"][key]) for key, *_ in LOAD]
        cells += [chart.number(variant["bench"][test]["median"]) for test in tests]
        lines.append(row([variant["name"], *cells]))
    for variant in result["variants"][1:]:
        shares = [ratio(variant["kept_of_native"][key]) for key in [key for key, *_ in LOAD] + tests]
        lines.append(row([f"{variant['name']} / native", *shares]))
    return lines


def memory_table(result):
    lines = [row(["MiB", *MEMORY]), row(["---"] + ["---:"] * len(MEMORY))]
    for variant in result["variants"]:
        used = variant["memory"]
        size = {key: f"{value:.1f}" for key, value in used.items()}
        beyond = [f"{size[f'{name}_mib']} ({used[f'{name}_share'] * 100:.1f} %)" for name in ("scratch", "beyond")]
        lines.append(row([variant["name"], size["weights_mib"], size["kv_mib"], *beyond, size["held_mib"], size["peak_mib"]]))
    return lines


def notes(result):
    """Machine, date, versions and command, a line each."""
    conditions = result["conditions"]
    lines = [
        f"{result['machine']}; {result['time']}; {result['podman']}; {result['model']}",
        f"{result['command']} (revision {result['revision']})",
        f"Load: {conditions['rounds']} round(s) by turns, {conditions['requests']} requests each, {conditions['concurrency']} at a "
        f"time, at most {conditions['max_tokens']} tokens, prompts {conditions['prompts']}. Bench: {result['bench']} tokens of "
        "prompt and of answer. Medians of rounds; shares are ratios of medians.",
    ]
    for variant in result["variants"]:
        failed = f"; {variant['failed_requests']} requests FAILED" if variant["failed_requests"] else ""
        lines.append(f"{variant['name']}: {variant['about']}; {variant['device']}; {variant['version']}{failed}")
    if result["far_side"]:
        lines.append(f"The far side of Venus, and native: Mesa {result['far_side']} (Debian)")
    return lines


def markdown(result):
    about_memory = (
        "Scratch is what Hesper takes of the device besides weights and KV; percentages are of weights and KV. "
        "Held is anonymous and shared memory of the server's process, and through Venus of the far side's too, when the load had "
        "ended; peak is the most that was resident (VmHWM), which counts the model's file while it was read, and libraries."
    )
    if any(variant["memory"]["peak_is_of_the_end"] for variant in result["variants"]):
        about_memory += " Where the system keeps no such mark (macOS), both are what was resident at the end."
    return "\n".join([
        f"# {title(result)}", "", *speed_table(result), "", *memory_table(result), "", about_memory, "",
        *(f"- {note}" for note in notes(result)), "",
    ])


def title(result):
    return f"Native, container and CPU: {result['model'].split(',')[0]}"


def picture(result):
    variants = result["variants"]

    def name(variant):
        share = variant["kept_of_native"]["tokens_per_second"]
        return variant["name"] if variant is variants[0] or share is None else f"{variant['name']} ({share * 100:.0f} %)"

    groups = [{"name": label, "unit": unit, "better": better, "values": [variant["load"][key] for variant in variants]}
              for key, label, unit, better in LOAD]
    for test in variants[0]["bench"]:
        what = "Prompt" if test.startswith("pp") else "Decode"
        groups.append({"name": f"{what}, hesper bench {test}", "unit": "tokens/s", "better": "more",
                       "values": [variant["bench"][test]["median"] for variant in variants]})
    groups.append({"name": "Memory beyond weights and KV", "unit": "MiB held at the end of the load", "better": "less",
                   "values": [max(variant["memory"]["beyond_mib"], 0) for variant in variants]})
    percent = "The percentage behind a name is its share of native's tokens per second."
    return chart.chart({"title": title(result), "series": [name(variant) for variant in variants], "groups": groups,
                        "notes": [percent, *notes(result)]})


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        result = compared(folder)
        (folder / "comparison.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (folder / "comparison.md").write_text(markdown(result), encoding="utf-8")
        (folder / "comparison.svg").write_text(picture(result), encoding="utf-8")
    except (Incomplete, KeyError, ValueError, OSError, chart.TableError) as error:
        print(f"error: {folder}: {type(error).__name__}: {error}; run scripts/compare again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
