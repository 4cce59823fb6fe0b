"""The catalogue of faults is whole, and two of it by themselves; `make faults` runs all."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from tests.faults import oracle
from tests.faults.__main__ import run_case
from tests.faults.catalogue import CATALOGUE
from tests.faults.scene import Scene

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("faults")]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="netra-faults-"))
    folder.chmod(0o711)  # PostgreSQL's service user has to pass through
    scene = Scene(folder)
    try:
        yield scene
        leaked = list(oracle.check_leaks(scene))
    finally:
        left = scene.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert leaked + left == []


@pytest.mark.long
@pytest.mark.parametrize("number", ["F1", "F8"])
def test_a_fault_costs_time_and_nothing_else(scene, number):
    seed = SystemRandom().randrange(10**6)
    print(f"again: python -m tests.faults --only {number} --seed {seed} --repeats 1")

    result = run_case(scene, CATALOGUE[number], seed=seed, repeat=seed)

    assert result.problems == ()


def test_the_catalogue_holds_every_case_it_promises():
    promised = [*range(1, 16), 20, 24, 25, 26, 28, 32]

    assert set(CATALOGUE) == {f"F{number}" for number in promised}
    assert all(case.fault and case.promise for case in CATALOGUE.values())
