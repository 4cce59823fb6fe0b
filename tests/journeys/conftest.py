import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.houses import House, Person


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """One house for all journeys: people come and go, the house stays."""
    with tempfile.TemporaryDirectory(prefix="netra-house-") as folder:
        Path(folder).chmod(0o711)
        house = House(Path(folder), NETRA_SAMPLE_DATA="false")
        try:
            yield house
        finally:
            house.close()


@pytest.fixture
def alice_there(house) -> Person:
    return house.sign_up("alice")


@pytest.fixture
def charlie_there(house) -> Person:
    return house.sign_up("charlie")
