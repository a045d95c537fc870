"""What can be measured: programs, drivers, tests, and the order in which they take turns. Pure."""
from __future__ import annotations  # Python 3.9 is what some hosts have

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

HESPER, LLAMA_VULKAN, LLAMA_CPU = "hesper", "llama-vulkan", "llama-cpu"
PROGRAMS = [HESPER, LLAMA_VULKAN, LLAMA_CPU]
# A driver's name and what it is. `host` is the driver of this machine, for one with a GPU.
DRIVERS = {
    "lavapipe": "Mesa's software driver, directly",
    "venus": "Venus over a socket to that same lavapipe",
    "host": "this machine's own Vulkan driver",
}
TESTS = ["pp64", "pp512", "pp2048", "tg128", "tg128@2048", "tg128@8192", "first-warm", "first-cold"]
# Tokens decoded before those that are measured: where the reading of the process's CPU time starts.
RUN_UP = 8
FIRST_PROMPT = 16  # tokens of the prompt whose answer `first-…` waits for


class BadName(ValueError):
    """A name of a test that is none."""


@dataclass(frozen=True)
class Test:
    """`ppN` evaluates a prompt of N tokens, `tgN` decodes N, `…@D` with D tokens in the cache before. `first-warm` and
    `first-cold` are the seconds from a process's start to the result of a short prompt, `cold` with empty caches of
    compiled kernels."""
    name: str
    prompt: int = 0
    generated: int = 0
    depth: int = 0

    @property
    def is_first(self) -> bool:
        return self.generated == 0 and self.prompt == 0

    @property
    def before(self) -> int:
        """Tokens of prompt that are evaluated before there is a result."""
        return self.prompt + self.depth

    def arguments(self) -> list[str]:
        """Of llama-bench and `hesper bench`, which take the same."""
        if self.is_first:
            return ["-p", str(FIRST_PROMPT), "-n", "0", "--no-warmup"]
        if self.generated == 0:
            return ["-p", str(self.prompt), "-n", "0", "-d", str(self.depth)]
        # With a depth the run-up would evaluate it twice.
        generated = str(self.generated) if self.depth else f"{RUN_UP},{self.generated}"
        return ["-p", "0", "-n", generated, "-d", str(self.depth)]


def test(name: str) -> Test:
    if name in ("first-warm", "first-cold"):
        return Test(name)
    found = re.fullmatch(r"(pp|tg)([1-9]\d{0,5})(?:@([1-9]\d{0,5}))?", name)
    if not found:
        raise BadName(f"there is no test `{name}`: name one as pp512, tg128, tg128@2048, first-warm or first-cold")
    count, depth = int(found[2]), int(found[3] or 0)
    if found[1] == "tg" and count <= RUN_UP:
        raise BadName(f"`{name}`: tg needs more than {RUN_UP} tokens")
    return Test(name, count, 0, depth) if found[1] == "pp" else Test(name, 0, count, depth)


@dataclass(frozen=True)
class Case:
    """One measurement."""
    driver: str
    model: str  # the file's name without its ending
    test: Test
    program: str
    round: int

    @property
    def path(self) -> str:
        """Where its result is kept, below the folder of results."""
        return f"{self.driver}/{self.model}/{self.test.name}/{self.program}-{self.round}.json"


def left_out(driver: str, test: Test, program: str) -> str | None:
    """Why a combination is never measured, if it is not."""
    if driver == "venus" and program == LLAMA_CPU:
        return "uses no driver: see lavapipe's table"
    if test.name == "first-cold" and program == LLAMA_CPU:
        return "compiles no kernels"
    if test.name == "first-cold" and driver == "venus":
        return "the far side holds the cache"
    return None


def cases(drivers: Sequence[str], models: Sequence[str], tests: Sequence[Test], programs: Sequence[str],
          rounds: int) -> Iterator[Case]:
    """All cases. Those of one model and test follow each other, every program in each round; every other round goes
    backwards, so that a drift of the machine's speed favours none."""
    for model in models:
        for one in tests:
            for number in range(rounds):
                turn = [Case(driver, model, one, program, number) for driver in drivers for program in programs
                        if left_out(driver, one, program) is None]
                yield from turn if number % 2 == 0 else reversed(turn)


def hopeless(case: Case, over_time: Mapping[tuple[str, str, str], Mapping[Test, float]]) -> str | None:
    """Why a case need not be tried: the same program, with the same file on the same driver, was ended by the limit (in
    seconds) in this test, or in one that evaluates no more tokens before its result."""
    for other, limit in over_time.get((case.driver, case.model, case.program), {}).items():
        if other == case.test:
            return f"over {limit:g} s"
        if not other.is_first and not case.test.is_first and 0 < other.before <= case.test.before:
            return f"not run: {other.name} took over {limit:g} s"
    return None
