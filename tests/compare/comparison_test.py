"""The report of scripts/compare from made-up measurements: medians, shares, memory, and what it refuses."""
import json
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

REPORT = Path(__file__).parents[2] / "scripts/lib/comparison.py"
FIGURES = ["qps", "tokens_per_second", "latency_ms_mean", "latency_ms_p95", "latency_ms_p99", "first_token_ms_mean",
           "inter_token_ms_mean"]
STATUS = "process server\nName:\thesper\nVmHWM:\t  204800 kB\nVmRSS:\t 150000 kB\nRssAnon:\t 102400 kB\nRssFile:\t 1024 kB\nRssShmem:\t 10240 kB\n"
FAR = "process far\nName:\tvirgl\nVmHWM:\t 51200 kB\nVmRSS:\t 51200 kB\nRssAnon:\t 20480 kB\nRssFile:\t 1 kB\nRssShmem:\t 0 kB\n"


def measured(folder):
    """Writes what scripts/compare leaves behind: the container has 0.9 of native's rates and 1.2 of its times."""
    facts = {"time": "2026-01-01T00:00:00Z", "command": "scripts/compare", "machine": "a machine", "podman": "podman 5",
             "revision": "abc", "model": "m.gguf, 1 bytes", "bench": "16,8", "version native": "hesper 1", "version container": "hesper 1",
             "about native": "a process", "about container": "podman"}
    (folder / "facts.txt").write_text("".join(f"{name}: {value}\n" for name, value in facts.items()))
    servers = []
    for name, rate, time in [("native", 10.0, 100.0), ("container", 9.0, 120.0)]:
        medians = {figure: time if "_ms_" in figure else rate for figure in FIGURES}
        servers.append({"name": name, "medians": medians, "rounds": [{"requests": 4, "succeeded": 4}]})
        (folder / f"health-{name}.json").write_text(json.dumps({"device": {"name": "llvmpipe", "driver": "lavapipe"}}))
        (folder / f"serve-{name}.log").write_text(
            "Device 0: x\nMemory: weights 80.0 / KV 20.0 (f16) / arena 1.0 / other 1.0 / total 102.0 of 1000.0 MiB\n")
        (folder / f"memory-{name}.txt").write_text(STATUS if name == "native" else STATUS + FAR)
        lines = [{"n_prompt": 16, "n_gen": 0, "avg_ts": rate * factor} for factor in (7, 10, 11)]
        lines += [{"n_prompt": 0, "n_gen": 8, "avg_ts": rate}]
        (folder / f"bench-{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    conditions = {"rounds": 3, "requests": 4, "concurrency": 1, "max_tokens": 8, "prompts": "built-in (12)"}
    (folder / "load.json").write_text(json.dumps({"servers": servers, "conditions": conditions}))


class Report(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = Path(made.name)
        measured(self.folder)

    def run_report(self):
        return subprocess.run([sys.executable, REPORT, self.folder], capture_output=True, text=True, timeout=60, check=False)

    def test_medians_and_shares(self):
        done = self.run_report()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        result = json.loads((self.folder / "comparison.json").read_text())
        native, container = result["variants"]
        self.assertEqual(native["bench"]["pp16"]["median"], 100.0)
        self.assertEqual(container["kept_of_native"]["tokens_per_second"], 0.9)
        self.assertEqual(container["kept_of_native"]["latency_ms_p95"], 1.2)
        self.assertEqual(container["kept_of_native"]["tg8"], 0.9)
        self.assertEqual(native["memory"]["held_mib"], 110.0)
        self.assertEqual((native["memory"]["beyond_share"], native["memory"]["scratch_share"]), (0.1, 0.02))
        self.assertEqual((container["memory"]["held_mib"], container["memory"]["peak_mib"]), (130.0, 250.0))
        text = (self.folder / "comparison.md").read_text()
        for part in ["| container / native | ×0.900 | ×0.900 | ×1.200 |", "| 80.0 | 20.0 | 2.0 (2.0 %) | 10.0 (10.0 %) | 110.0 | 200.0 |", "bench pp16 t/s", "a machine", "scripts/compare"]:
            self.assertIn(part, text)
        xml.parse(self.folder / "comparison.svg")

    def test_failed_requests_are_not_passed_over(self):
        load = json.loads((self.folder / "load.json").read_text())
        load["servers"][1]["rounds"][0]["succeeded"] = 1
        (self.folder / "load.json").write_text(json.dumps(load))
        self.assertEqual(self.run_report().returncode, 0)
        self.assertIn("3 requests FAILED", (self.folder / "comparison.md").read_text())

    def test_what_is_missing_is_named(self):
        for name, text in [("bench-container.jsonl", ""), ("serve-native.log", "Device 0: x\n"), ("memory-native.txt", ""),
                           ("load.json", "{"), ("facts.txt", "time: now\n")]:
            with self.subTest(name):
                measured(self.folder)
                (self.folder / name).write_text(text)
                done = self.run_report()
                self.assertEqual(done.returncode, 1)
                self.assertTrue(done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
