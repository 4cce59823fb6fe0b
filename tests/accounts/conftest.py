import pytest


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """A real password hash is slow on purpose; how slow is not what these tests are about."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
