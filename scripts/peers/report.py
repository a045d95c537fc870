"""From measurements to medians, ratios, tables and a chart. Pure."""
from __future__ import annotations  # Python 3.9 is what some hosts have

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import DRIVERS, HESPER, LLAMA_CPU, LLAMA_VULKAN, Case, Test, left_out

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))
import chart  # noqa: E402

NAMES = {HESPER: "Hesper", LLAMA_VULKAN: "llama.cpp Vulkan", LLAMA_CPU: "llama.cpp CPU"}
FIGURES = ["tokens_per_second", "first_token_seconds", "cpu_ms_per_token", "load_gb_per_second"]
# Models and tests are many: the chart shows these tests, or all where none of them was measured.
IN_CHART = ["pp512", "tg128"]

Measurement = Mapping[str, Any]
Cell = dict[str, Any]


def cell(results: Sequence[Measurement]) -> Cell:
    """Rounds of one program and test: medians and all values of every figure, or why there is none."""
    good = [result for result in results if result["status"] == "measured"]
    bad = [result["why"] for result in results if result["status"] != "measured"]
    found: Cell = {"rounds": len(good), "why": bad[0] if bad else None}
    for figure in FIGURES:
        values = [result[figure] for result in good if result.get(figure) is not None]
        if values:
            found[figure] = {"median": statistics.median(values), "rounds": values}
    return found


def collected(measured: Iterable[tuple[Case, Measurement]]) -> dict[tuple[str, str, str, str], Cell]:
    """By driver, model, test and program."""
    by_place: dict[tuple[str, str, str, str], list[Measurement]] = {}
    for case, result in measured:
        by_place.setdefault((case.driver, case.model, case.test.name, case.program), []).append(result)
    return {place: cell(results) for place, results in by_place.items()}


def median(found: Cell | None, figure: str) -> float | None:
    return found[figure]["median"] if found and figure in found else None


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def row(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; the first two columns are words."""
    return [row(heads), row(["---", "---", *["---:"] * (len(heads) - 2)]), *(row(one) for one in rows), ""]


def times(value: float | None) -> str:
    return "–" if value is None else f"×{chart.number(value)}"


class Report:
    """The tables of one run. `places` are what `collected` gives; the rest says what was meant to be measured."""

    def __init__(self, places: Mapping[tuple[str, str, str, str], Cell], drivers: Sequence[str], models: Sequence[str],
                 tests: Sequence[Test], programs: Sequence[str]) -> None:
        self.places, self.drivers, self.models, self.tests, self.programs = places, drivers, models, tests, programs

    def value(self, driver: str, model: str, test: str, program: str, figure: str) -> float | None:
        return median(self.places.get((driver, model, test, program)), figure)

    def shown(self, driver: str, model: str, test: Test, program: str, figure: str) -> str:
        """A figure, or why there is none: what was not measured is never left out."""
        never = left_out(driver, test, program)
        found = self.places.get((driver, model, test.name, program))
        value = median(found, figure)
        if value is not None:
            missing = f" ({found['rounds']} only: {found['why']})" if found and found["why"] else ""
            return chart.number(value) + missing
        if never:
            return f"– ({never})"
        return f"not measured: {found['why']}" if found and found["why"] else "not measured"

    def ratios(self, driver: str, model: str, test: Test, figure: str) -> list[str]:
        ours = self.value(driver, model, test.name, HESPER, figure)
        return [times(ratio(ours, self.value(driver, model, test.name, program, figure)))
                for program in self.programs if program != HESPER]

    def heads(self, unit: str) -> list[str]:
        peers = [program for program in self.programs if program != HESPER]
        return ["model", "test", *(f"{NAMES[program]}, {unit}" for program in self.programs),
                *(f"Hesper / {NAMES[program]}" for program in peers)]

    def rates(self, driver: str) -> list[str]:
        """Tokens a second of all tests but `first-…`."""
        tests = [test for test in self.tests if not test.is_first]
        return table(self.heads("t/s"), (
            [model, test.name, *(self.shown(driver, model, test, program, "tokens_per_second") for program in self.programs),
             *self.ratios(driver, model, test, "tokens_per_second")]
            for model in self.models for test in tests)) if tests else []

    def starts(self, driver: str) -> list[str]:
        """Seconds to the first token, and how fast the file was loaded."""
        tests = [test for test in self.tests if test.is_first]
        heads = [*self.heads("s"), *(f"{NAMES[program]}, load GB/s" for program in self.programs)]
        return table(heads, (
            [model, test.name, *(self.shown(driver, model, test, program, "first_token_seconds") for program in self.programs),
             *self.ratios(driver, model, test, "first_token_seconds"),
             *(chart.number(self.value(driver, model, test.name, program, "load_gb_per_second")) for program in self.programs)]
            for model in self.models for test in tests)) if tests else []

    def processor(self, driver: str) -> list[str]:
        """CPU time per decoded token of the process: through Venus, of the guest. Directly on a software driver it would be
        the driver's."""
        tests = [test for test in self.tests if test.generated and not test.depth and driver != "lavapipe"]
        return table(self.heads("ms"), (
            [model, test.name, *(self.shown(driver, model, test, program, "cpu_ms_per_token") for program in self.programs),
             *self.ratios(driver, model, test, "cpu_ms_per_token")]
            for model in self.models for test in tests)) if tests else []

    def depths(self) -> list[str]:
        """What is left of the speed at a depth."""
        deep = [test for test in self.tests if test.generated and test.depth]
        rows = [[model, f"{test.name} / tg{test.generated}, {driver}",
                 *(times(ratio(self.value(driver, model, test.name, program, "tokens_per_second"),
                               self.value(driver, model, f"tg{test.generated}", program, "tokens_per_second")))
                   for program in self.programs)]
                for driver in self.drivers for model in self.models for test in deep]
        return table(["model", "ratio", *(NAMES[program] for program in self.programs)], rows) if rows else []

    def through_venus(self) -> list[str]:
        """What is left of the direct speed."""
        if not {"lavapipe", "venus"} <= set(self.drivers):
            return []
        programs = [program for program in self.programs if program != LLAMA_CPU]
        return table(["model", "test", *(f"{NAMES[program]}, venus / lavapipe" for program in programs)], (
            [model, test.name, *(times(ratio(*(self.value(driver, model, test.name, program, "tokens_per_second")
                                               for driver in ("venus", "lavapipe")))) for program in programs)]
            for model in self.models for test in self.tests if not test.is_first))

    def markdown(self, facts: Mapping[str, str]) -> str:
        lines = ["# Hesper and llama.cpp", "", *(f"- {name}: {value}" for name, value in facts.items()), "",
                 "Medians of rounds; ratios are of medians. A dash is what does not exist.", ""]
        for driver in self.drivers:
            lines += [f"## {driver}: {DRIVERS[driver]}", "", *self.rates(driver)]
            starts, processor = self.starts(driver), self.processor(driver)
            if starts:
                lines += ["From the start of the process to the result of a short prompt (of a time, less is better):", "", *starts]
            if processor:
                lines += ["CPU time of the process per decoded token (less is better):", "", *processor]
        for title, part in (("Decode at a depth", self.depths()), ("Through Venus", self.through_venus())):
            if part:
                lines += [f"## {title}", "", *part]
        return "\n".join(lines)

    def picture(self, driver: str, facts: Mapping[str, str]) -> str:
        """Bars for every model and the tests IN_CHART; a program without a figure has a dash."""
        chosen = [test for test in self.tests if test.name in IN_CHART] or [test for test in self.tests if not test.is_first]
        groups = [{"name": f"{model} {test.name}", "unit": "tokens/s", "better": "more",
                   "values": [self.value(driver, model, test.name, program, "tokens_per_second") for program in self.programs]}
                  for model in self.models for test in chosen]
        notes = [f"{name}: {value}" for name, value in facts.items()]
        return chart.chart({"title": f"Hesper and llama.cpp on {driver}: {DRIVERS[driver]}",
                            "series": [NAMES[program] for program in self.programs], "groups": groups,
                            "notes": [*notes, "A dash: not measured."]})

    def document(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """All figures, for programs."""
        return {**facts, "results": [
            {"driver": driver, "model": model, "test": test, "program": program, **found}
            for (driver, model, test, program), found in sorted(self.places.items())]}
