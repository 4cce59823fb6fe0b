"""`python -m tests.faults`: the whole catalogue against houses of its own, and a table of how it went.

Every repeat prints its seed; `--only F9 --seed 123 --repeats 1` does that one again. Exits 1 when anything failed.
"""

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from tests.faults import oracle
from tests.faults.catalogue import CATALOGUE, Case
from tests.faults.play import Play
from tests.faults.scene import Scene

REPEATS, NIGHTLY_REPEATS = 5, 50
RESULTS = Path("test-results/faults")  # logs of the houses in which something failed


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one repeat went."""

    case: Case
    seed: int
    seconds: float  # that it took
    recovery: float | None  # seconds to recovery, where that was measured
    problems: tuple[str, ...]


def run_case(scene: Scene, case: Case, *, seed: int, repeat: int = 0, nightly: bool = False) -> Result:
    """One repeat of a case, with everything that must hold after it; `seed` decides when the fault comes."""
    started, recovery, problems = time.monotonic(), None, []
    play = Play(scene, random=Random(seed), repeat=repeat, nightly=nightly)
    watch = oracle.CapWatch(scene.database_url)
    try:
        scene.make_ready()
        recovery = case.run(play)
        problems += oracle.examine(play)
    except Exception as error:  # whatever a case meets is its result
        problems += ["".join(traceback.format_exception(error)).strip()]
    finally:
        play.end()
        watch.stop()
    problems += watch.violations
    if case.within is not None and recovery is not None and recovery > case.within:
        problems.append(f"recovered after {recovery:.1f} s instead of {case.within:g} s")
    seconds = time.monotonic() - started
    return Result(case=case, seed=seed, seconds=seconds, recovery=recovery, problems=tuple(problems))


class Houses:
    """The house that cases share; one in which something failed is not used again."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._scene: Scene | None = None

    def scene(self) -> Scene:
        if self._scene is None:
            folder = Path(tempfile.mkdtemp(prefix="netra-faults-"))
            folder.chmod(0o711)  # PostgreSQL's service user has to pass through
            self._scene = Scene(folder)
        return self._scene

    def close(self, *, keep_logs_as: str = "") -> None:
        """End the house; what it leaves behind is a problem, unless something had failed before."""
        if self._scene is None:
            return
        scene, self._scene = self._scene, None
        if keep_logs_as:
            scene.dump()
        leaked = [] if keep_logs_as else list(oracle.check_leaks(scene))
        left = scene.close()
        if keep_logs_as:
            _keep_logs(scene.folder, RESULTS / keep_logs_as)
        else:
            self.problems += leaked + left
        shutil.rmtree(scene.folder, ignore_errors=True)


def _keep_logs(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for log in (*folder.glob("*.log"), *folder.glob("home/log/*.log"), *folder.glob("*.jsonl")):
        shutil.copy(log, target / log.name)


def run_all(cases: Sequence[Case], *, repeats: int, seed: int, nightly: bool) -> tuple[list[Result], list[str]]:
    """Every case `repeats` times, in rounds, each round in a house of its own."""
    houses, results = Houses(), []
    try:
        for repeat in range(repeats):
            for case in cases:
                result = run_case(houses.scene(), case, seed=seed + repeat, repeat=seed + repeat, nightly=nightly)
                results.append(result)
                say(result)
                if result.problems:
                    houses.close(keep_logs_as=f"{case.number}-{result.seed}")
            houses.close()
    finally:
        houses.close()
    return results, houses.problems


def say(result: Result) -> None:
    recovery = "" if result.recovery is None else f", recovered in {result.recovery:.1f} s"
    verdict = "FAILED" if result.problems else "ok"
    print(f"{result.case.number:4} seed {result.seed}: {verdict} in {result.seconds:.1f} s{recovery}", flush=True)
    for problem in result.problems[:10]:
        print("     " + problem.replace("\n", "\n     "), flush=True)


def table(results: Sequence[Result]) -> str:
    """One line for each case."""
    by_case: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_case[result.case.number].append(result)
    lines = [f"{'case':5} {'passed':>7} {'worst':>8} {'promised':>9}  fault"]
    for number, own in by_case.items():
        passed = f"{sum(not result.problems for result in own)}/{len(own)}"
        worst = max((result.recovery for result in own if result.recovery is not None), default=None)
        promised = own[0].case.within
        lines.append(f"{number:5} {passed:>7} {_seconds(worst):>8} {_seconds(promised):>9}  {own[0].case.fault}")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="numbers of cases, comma-separated, for example F1,F9")
    parser.add_argument("--repeats", type=int, help=f"of each case (default {REPEATS}, nightly {NIGHTLY_REPEATS})")
    parser.add_argument("--seed", type=int, help="of the first round; each further round has the next (default random)")
    parser.add_argument("--nightly", action="store_true", help="more repeats, and the long soaks")
    asked = parser.parse_args()
    numbers = asked.only.split(",") if asked.only else list(CATALOGUE)
    unknown = [number for number in numbers if number not in CATALOGUE]
    if unknown:
        parser.error(f"no case is numbered {', '.join(unknown)}; there are {', '.join(CATALOGUE)}")
    seed = SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    repeats = asked.repeats or (NIGHTLY_REPEATS if asked.nightly else REPEATS)
    started = time.monotonic()
    cases = [CATALOGUE[number] for number in numbers]
    results, leaks = run_all(cases, repeats=repeats, seed=seed, nightly=asked.nightly)
    print(f"\n{table(results)}\n")
    for leak in leaks:
        print(leak)
    failed = sum(bool(result.problems) for result in results)
    print(f"{len(results) - failed} of {len(results)} passed in {(time.monotonic() - started) / 60:.1f} minutes.")
    if failed:
        print(f"Logs of the houses in which something failed: {RESULTS}/")
    return 1 if failed or leaks else 0


if __name__ == "__main__":
    sys.exit(main())
