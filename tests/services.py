"""The suite's own PostgreSQL and Redis: real ones, on private sockets, gone when the suite ends.

Loaded as a plugin (`-p tests.services`), so that the environment is set before Django reads it. With DATABASE_URL and
REDIS_URL set, those are used instead. Workers of pytest-xdist inherit the environment of the process that starts them.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.operations import embedded

_services = contextlib.ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    # A wrapper runs before pytest-django's own hook, which reads the settings.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _start()
    return (yield)


def pytest_unconfigure() -> None:
    _services.close()


def _start() -> None:
    home = Path(tempfile.mkdtemp(prefix="netra-tests-"))
    home.chmod(0o711)  # PostgreSQL's service user has to pass through
    _services.callback(shutil.rmtree, home, ignore_errors=True)
    os.environ["NETRA_HOME"] = str(home)
    if "DATABASE_URL" not in os.environ:
        postgres = embedded.Postgres(home=home, durable=False)
        os.environ["DATABASE_URL"] = _services.enter_context(embedded.running(postgres))
    if "REDIS_URL" not in os.environ:
        redis = embedded.Redis(home=home, durable=False)
        os.environ["REDIS_URL"] = _services.enter_context(embedded.running(redis))
