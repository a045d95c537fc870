"""scripts/bench-peers without its programs: cases, what is read from a process, medians, tables, the chart. Run by
`scripts/test peers`."""
import contextlib
import io
import json
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts/peers"))
import cases  # noqa: E402
import matrix  # noqa: E402
import measure  # noqa: E402
import models  # noqa: E402
import report  # noqa: E402
from cases import HESPER, LLAMA_CPU, LLAMA_VULKAN, PROGRAMS, Case  # noqa: E402

TG = cases.test("tg128")


def record(prompt=0, generated=128, depth=0, rate=25.0, **more):
    """The fields of llama-bench's JSON that are read."""
    return {"n_prompt": prompt, "n_gen": generated, "n_depth": depth, "avg_ts": rate, "gpu_info": "a GPU", "backends": "Vulkan",
            "build_number": 7, **more}


def run_of(*lines, errors=()):
    """A process that printed these (JSON objects, seconds, CPU seconds)."""
    out = [measure.Line(json.dumps(one), seconds, cpu) for one, seconds, cpu in lines]
    return measure.Run(out, [measure.Line(text, seconds, 0.0) for text, seconds in errors])


def good(rate, **more):
    return {"status": "measured", "tokens_per_second": rate, **more}


def report_of(results, drivers=("lavapipe",), tests=("tg128",), programs=PROGRAMS):
    """A report from {(driver, test, program): rounds}, of one model `m`."""
    measured = [(Case(driver, "m", cases.test(test), program, number), result)
                for (driver, test, program), rounds in results.items() for number, result in enumerate(rounds)]
    return report.Report(report.collected(measured), drivers, ["m"], [cases.test(test) for test in tests], programs)


class Cases(unittest.TestCase):
    def test_names(self):
        self.assertEqual((cases.test("pp512").prompt, cases.test("pp512").depth), (512, 0))
        deep = cases.test("tg128@2048")
        self.assertEqual((deep.generated, deep.depth, deep.before), (128, 2048, 2048))
        self.assertTrue(cases.test("first-cold").is_first)
        for wrong in ("", "pp", "pp0", "pp-1", "tg8", "tg128@", "pp1e9", "first", "pp64 ", "tg128@0", "pp1234567"):
            with self.assertRaises(cases.BadName, msg=wrong):
                cases.test(wrong)

    def test_every_default_is_a_test_with_arguments_of_its_own(self):
        arguments = {" ".join(cases.test(name).arguments()) for name in cases.TESTS if name != "first-cold"}
        self.assertEqual(len(arguments), len(cases.TESTS) - 1)

    def test_all_programs_take_turns_and_every_other_round_goes_backwards(self):
        found = list(cases.cases(["lavapipe", "venus"], ["a", "b"], [TG], PROGRAMS, 2))
        turns = [(case.driver, case.program) for case in found if case.model == "a"]
        first = [("lavapipe", HESPER), ("lavapipe", LLAMA_VULKAN), ("lavapipe", LLAMA_CPU), ("venus", HESPER), ("venus", LLAMA_VULKAN)]
        self.assertEqual(turns, first + first[::-1])
        self.assertEqual(len({case.path for case in found}), len(found))

    def test_what_is_hopeless_is_not_tried(self):
        over = {("lavapipe", "m", LLAMA_VULKAN): {cases.test("pp512"): 60.0, TG: 60.0}}

        def why(test, program=LLAMA_VULKAN, driver="lavapipe"):
            return cases.hopeless(Case(driver, "m", cases.test(test), program, 1), over)
        self.assertEqual(why("pp512"), "over 60 s")
        self.assertEqual(why("tg128"), "over 60 s")
        self.assertEqual(why("pp2048"), "not run: pp512 took over 60 s")
        self.assertEqual(why("tg128@8192"), "not run: pp512 took over 60 s")
        for other in (why("pp64"), why("tg32"), why("first-warm"), why("pp512", HESPER), why("pp512", driver="venus")):
            self.assertIsNone(other)


class Measure(unittest.TestCase):
    def result(self, run, test="tg128", program=LLAMA_VULKAN, size=10**9):
        return measure.result_of(Case("venus", "m", cases.test(test), program, 0), run, size)

    def test_cpu_time_is_that_between_the_run_up_and_the_result(self):
        run = run_of((record(generated=8), 5.0, 4.0), (record(), 9.0, 5.28))
        self.assertAlmostEqual(self.result(run)["cpu_ms_per_token"], 10.0)
        self.assertEqual(self.result(run)["tokens_per_second"], 25.0)

    def test_a_clock_that_was_gone_gives_no_cpu_time(self):
        self.assertNotIn("cpu_ms_per_token", self.result(run_of((record(generated=8), 5.0, 4.0), (record(), 9.0, 0.0))))

    def test_the_first_token_is_timed_from_the_start(self):
        run = run_of((record(prompt=16, generated=0), 3.5, 1.0))
        self.assertEqual(self.result(run, "first-warm")["first_token_seconds"], 3.5)

    def test_loading(self):
        line = (record(prompt=64, generated=0), 9.0, 1.0)
        progress = [("llama-bench: benchmark 1/1: starting", 0.5), ("llama-bench: benchmark 1/1: warmup prompt run", 2.5),
                    ("llama-bench: benchmark 1/1: prompt run 1/1", 4.0)]
        self.assertEqual(self.result(run_of(line, errors=progress), "pp64")["load_gb_per_second"], 0.5)
        said = [("Loaded 0.376 GB in 4.00 s (0.11 GB/s), ready after 3.31 s", 4.0)]
        self.assertEqual(self.result(run_of(line, errors=said), "pp64", HESPER)["load_gb_per_second"], 0.25)
        self.assertNotIn("load_gb_per_second", self.result(run_of(line), "pp64", HESPER))

    def test_another_result_than_the_one_asked_for_is_a_failure(self):
        for run in (run_of(), run_of((record(generated=64), 1.0, 1.0)), run_of((record(), 1.0, 1.0), (record(), 2.0, 2.0)),
                    measure.Run([measure.Line("{damaged", 0.0, 0.0)])):
            with self.assertRaises(measure.Failed):
                self.result(run)

    @unittest.skipUnless(sys.platform == "linux", "scripts/bench-peers needs Linux, whose clock of a process this reads")
    def test_a_process_is_read_timed_and_ended(self):
        script = "import sys, time; sum(range(3_000_000)); print('{}', flush=True); print('x', file=sys.stderr)"
        run = measure.run([sys.executable, "-c", script], 60)
        self.assertEqual([line.text for line in run.out + run.errors], ["{}", "x"])
        self.assertTrue(0 < run.out[0].cpu_seconds and 0 < run.out[0].seconds <= run.seconds, run)
        with self.assertRaises(measure.OverTime):
            measure.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
        with self.assertRaisesRegex(measure.Failed, "status 3: gone"):
            measure.run([sys.executable, "-c", "import sys; print('gone', file=sys.stderr); sys.exit(3)"], 60)


@unittest.skipUnless(sys.platform == "linux", "scripts/bench-peers needs Linux: it reads /proc/cpuinfo")
class Resume(unittest.TestCase):
    """A program in Hesper's place that counts its runs, and sleeps once it is told to."""

    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = Path(made.name)
        self.model = self.folder / "m.gguf"
        self.model.write_text("m")
        self.program("25")

    def program(self, rate, sleep=0):
        file = self.folder / "hesper"
        line = json.dumps(record(prompt=64, generated=0)).replace("25.0", rate)
        file.write_text(f"#!/bin/sh\necho x >>{self.folder}/runs\nsleep {sleep}\necho '{line}'\n")
        file.chmod(0o755)

    def run_matrix(self, *words):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            status = matrix.main(["--hesper", str(self.folder / "hesper"), "--gpu", "--pack", str(self.folder), "--programs", "hesper",
                                  "--models", str(self.model), "--tests", "pp64", "--rounds", "2", "--out", str(self.folder / "out"), *words])
        self.assertEqual(status, 0)
        result = json.loads((self.folder / "out/peers.json").read_text())["results"][0]
        return len((self.folder / "runs").read_text().split()), result

    def test_what_is_measured_is_kept_until_the_program_is_another(self):
        runs, result = self.run_matrix()
        self.assertEqual((runs, result["tokens_per_second"]["rounds"]), (2, [25, 25]))
        (self.folder / "out/measurements/host/m/pp64/hesper-1.json").unlink()
        self.assertEqual(self.run_matrix("--resume")[0], 3)
        self.program("50")
        runs, result = self.run_matrix("--resume")
        self.assertEqual((runs, result["tokens_per_second"]["median"]), (5, 50))
        self.assertEqual(self.run_matrix()[0], 7)

    def test_a_limit_ends_a_measurement_and_a_longer_one_tries_again(self):
        self.program("25", sleep=2)
        runs, result = self.run_matrix("--limit", "0.3")
        self.assertEqual((runs, result["why"], result["rounds"]), (1, "over 0.3 s", 0))
        self.assertEqual(self.run_matrix("--limit", "0.2", "--resume")[0], 1)
        runs, result = self.run_matrix("--limit", "60", "--resume")
        self.assertEqual((runs, result["rounds"]), (3, 2))


class Report(unittest.TestCase):
    def test_medians_and_ratios(self):
        found = report_of({("lavapipe", "tg128", HESPER): [good(30.0), good(10.0), good(20.0)],
                           ("lavapipe", "tg128", LLAMA_VULKAN): [good(2.0), good(4.0)],
                           ("lavapipe", "tg128", LLAMA_CPU): [good(80.0)]})
        self.assertIn("| m | tg128 | 20.0 | 3.00 | 80.0 | ×6.67 | ×0.25 |", found.rates("lavapipe"))
        document = found.document({"time": "now"})
        self.assertEqual(document["results"][0]["tokens_per_second"], {"median": 20.0, "rounds": [30.0, 10.0, 20.0]})

    def test_what_was_not_measured_is_said(self):
        over = {"status": "over time", "why": "over 60 s"}
        text = report_of({("lavapipe", "tg128", HESPER): [good(30.0)], ("lavapipe", "tg128", LLAMA_VULKAN): [over],
                          ("lavapipe", "tg128", LLAMA_CPU): [good(9.0), over]}, tests=["tg128", "pp64"]).markdown({})
        self.assertIn("| m | tg128 | 30.0 | not measured: over 60 s | 9.00 (1 only: over 60 s) | – | ×3.33 |", text)
        self.assertIn("| m | pp64 | not measured | not measured | not measured | – | – |", text)

    def test_guests_processor_time_starts_and_depths(self):
        found = report_of({
            ("venus", "tg128", HESPER): [good(20.0, cpu_ms_per_token=0.5)], ("venus", "tg128", LLAMA_VULKAN): [good(4.0, cpu_ms_per_token=10.0)],
            ("lavapipe", "tg128", HESPER): [good(25.0)], ("lavapipe", "tg128@2048", HESPER): [good(20.0)],
            ("lavapipe", "first-cold", HESPER): [good(1.0, first_token_seconds=2.0, load_gb_per_second=0.5)],
            ("lavapipe", "first-cold", LLAMA_VULKAN): [good(1.0, first_token_seconds=16.0)],
        }, drivers=["lavapipe", "venus"], tests=["tg128", "tg128@2048", "first-cold"])
        self.assertIn("| m | tg128 | 0.50 | 10.0 | – (uses no driver: see lavapipe's table) | ×0.0500 | – |", found.processor("venus"))
        self.assertEqual(found.processor("lavapipe"), [])
        self.assertIn("| m | first-cold | 2.00 | 16.0 | – (compiles no kernels) | ×0.12 | – | 0.50 | – | – |", found.starts("lavapipe"))
        self.assertIn("| m | tg128@2048 / tg128, lavapipe | ×0.80 | – | – |", found.depths())
        self.assertIn("| m | tg128 | ×0.80 | – |", found.through_venus())

    def test_the_chart_shows_every_program(self):
        found = report_of({("lavapipe", "tg128", HESPER): [good(30.0)]})
        root = xml.fromstring(found.picture("lavapipe", {"machine": "a machine"}))
        words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        self.assertTrue({"m tg128", "30.0", "–", *report.NAMES.values()} <= words, words)


class Options(unittest.TestCase):
    def options(self, *words):
        return matrix.arguments(["--hesper", sys.executable, *words])

    def test_quick_yields_to_what_else_is_given(self):
        options = self.options("--rounds", "2", "--quick")
        self.assertEqual((options.rounds, options.types, options.models), (2, ["Q4_0"], ["qwen3-0.6b"]))

    def test_software_only_where_it_is_meant(self):
        file = Path("m.gguf")
        ours = matrix.command(self.options(), Case("venus", "m", TG, HESPER, 0), file, file)
        self.assertIn("--allow-software", ours)
        gpu = self.options("--gpu", "--pack", "p")
        self.assertEqual((gpu.drivers, "llama-3.1-8b" in gpu.models), (["host"], True))
        self.assertNotIn("--allow-software", matrix.command(gpu, Case("host", "m", TG, HESPER, 0), file, file))
        theirs = matrix.command(gpu, Case("host", "m", TG, LLAMA_VULKAN, 0), file, file)
        self.assertTrue(theirs[1].endswith("/p/run") and "GGML_VK_DISABLE_COOPMAT=1" not in theirs, theirs)
        self.assertIn("GGML_VK_DISABLE_COOPMAT=1", matrix.command(self.options(), Case("venus", "m", TG, LLAMA_VULKAN, 0), file, file))

    def test_a_cold_start_finds_no_cache_and_the_tree_stays_where_it_is(self):
        words = matrix.command(self.options(), Case("lavapipe", "m", cases.test("first-cold"), HESPER, 0), Path("m.gguf"), Path("/empty"))
        self.assertGreater(words.index("XDG_CACHE_HOME=/empty"), words.index("env"))
        self.assertIn("MESA_SHADER_CACHE_DIR=/empty", words)

    def test_wrong_options_are_refused(self):
        for words in (["--drivers", "metal"], ["--gpu"], ["--tests", "pp"], ["--rounds", "0"], ["--types", "Q9"],
                      ["--gpu", "--pack", "p", "--drivers", "venus"], ["--unknown", "1"]):
            with self.assertRaises(SystemExit, msg=words), contextlib.redirect_stderr(io.StringIO()):
                self.options(*words)


class Models(unittest.TestCase):
    def test_a_file_is_made_of_its_shapes_f16_and_only_once(self):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            log = "import pathlib, sys; log = pathlib.Path(sys.argv[1]); log.write_text((log.read_text() if log.exists() else '') + 'x')"
            synth = [sys.executable, "-c", f"{log}; pathlib.Path(sys.argv[2]).write_text('F16')", folder / "synth"]
            quantize = [sys.executable, "-c", f"{log}; pathlib.Path(sys.argv[3]).write_text(sys.argv[4])", folder / "quantize"]
            with unittest.mock.patch.object(models, "SYNTH_GGUF", synth), contextlib.redirect_stderr(io.StringIO()):
                for _ in range(2):
                    for kind in ("Q4_0", "F16", "Q8_0"):
                        file = models.make(folder, "qwen3-0.6b", kind, [str(word) for word in quantize], 2)
                        self.assertEqual((file.name, file.read_text()), (f"qwen3-0.6b-{kind.lower()}.gguf", kind))
            self.assertEqual((folder / "synth").read_text() + (folder / "quantize").read_text(), "xxx")
            self.assertEqual(len(list(folder.iterdir())), 5)

    def test_a_failure_leaves_no_file(self):
        with tempfile.TemporaryDirectory() as made:
            with unittest.mock.patch.object(models, "SYNTH_GGUF", [sys.executable, "-c", "import sys; sys.exit('no room')"]):
                with self.assertRaisesRegex(SystemExit, "no room"), contextlib.redirect_stderr(io.StringIO()):
                    models.make(Path(made), "qwen3-0.6b", "F16", [], 2)
            self.assertEqual([file.suffix for file in Path(made).iterdir()], [".log"])


if __name__ == "__main__":
    unittest.main()
