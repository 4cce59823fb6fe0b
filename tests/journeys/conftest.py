import pytest

from tests.houses import Person


@pytest.fixture
def alice_there(house) -> Person:
    return house.sign_up("alice")


@pytest.fixture
def charlie_there(house) -> Person:
    return house.sign_up("charlie")
