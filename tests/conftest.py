"""The cast: Alice owns Acme, Bob is a member of it, Vera may only look, Charlie is a stranger."""

import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import TransactionTestCase
from rest_framework.test import APIClient

from apps.accounts.models import Membership, Organization, Plan, User
from apps.accounts.tenancy import Principal, principal_for
from apps.operations.breakers import breakers
from apps.operations.database import disconnect
from tests.houses import House

PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings) -> None:
    """A test is one transaction, in which a busy machine may compute for longer than a house lets one idle."""
    options = settings.DATABASES["default"]["OPTIONS"]
    options["options"] += " -c idle_in_transaction_session_timeout=0"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker) -> Iterator[None]:
    """At the end nobody may hold the database: no thread that keeps its connection, no killed process."""
    yield
    disconnect()
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )


def pytest_configure() -> None:
    # Every full look at the many objects of all these modules takes a tenth of a second.
    gc.set_threshold(50_000, 20, 50)
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("netra", deadline=None)
    hypothesis.settings.load_profile("netra")
    # Django's own empties every table after such a test and makes all permissions again: half a second each time.
    TransactionTestCase._fixture_teardown = _empty_what_is_filled


def _empty_what_is_filled(test: TransactionTestCase) -> None:
    """Empty the tables that hold rows, save those that name what the code consists of."""
    stays = {model._meta.db_table for model in (ContentType, Permission)}
    tables = [name for name in connection.introspection.django_table_names(only_existing=True) if name not in stays]
    asked = " UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in tables)
    with connection.cursor() as cursor:
        cursor.execute(asked)
        filled = [name for (name,) in cursor.fetchall()]
        if filled and cursor.connection.info.parameter_status("is_superuser") == "on":
            # Few rows are deleted faster than files are made anew; as a replica, nothing asks whether they may be.
            deletes = "; ".join(f"DELETE FROM {name}" for name in filled)
            cursor.execute(f"BEGIN; SET LOCAL session_replication_role = replica; {deletes}; COMMIT")
        elif filled:
            cursor.execute(f"TRUNCATE {', '.join(filled)} CASCADE")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items) -> None:
    """Refuse a run whose groups would be torn apart: what they share would be opened by every process."""
    torn = [item.nodeid for item in items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
    if config.getoption("loadgroup", False) and torn:
        raise pytest.UsageError(f"This pytest and this xdist do not group tests: {torn[0]} is on its own.")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: those of an archive hold the moment it was made, and every process would collect others."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item) -> Iterator[None]:
    """What the house said last stands beside a failure in it."""
    report = yield
    house = getattr(item, "funcargs", {}).get("house")
    if report.failed and house is not None:
        report.sections.append(("The house", house.log()[-6000:]))
    return report


@pytest.fixture(autouse=True)
def own_breakers(request, monkeypatch) -> Iterator[None]:
    """What fails in one test is spared no other: all share one Redis."""
    if "resilience" in request.path.parts:  # the tests of the breakers themselves
        yield
        return
    monkeypatch.setattr("apps.resilience.store.PREFIX", f"netra:breaker:{uuid4()}:")
    yield
    if breakers.cache_info().currsize:
        breakers().close()
        breakers.cache_clear()


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """A real password hash is slow on purpose; how slow is not what these tests are about."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def no_static_files(settings) -> None:
    """Every client of a test has middleware of its own, which would look all static files up: a tenth of a second."""
    settings.WHITENOISE_USE_FINDERS = False


@pytest.fixture
def plans(db) -> None:
    """The plans that the first migration makes; a test that empties the tables takes them away for the next."""
    for code in Plan.Code.values:
        Plan.objects.get_or_create(code=code)


@pytest.fixture
def acme(plans) -> Organization:
    return Organization.objects.create(name="Acme")


@pytest.fixture
def make_user(plans) -> Callable[..., User]:
    def make(name: str, organization: Organization, role: str = Membership.Role.MEMBER) -> User:
        user = User.objects.create_user(f"{name}@example.com", PASSWORD, name=name.title())
        Membership.objects.create(organization=organization, user=user, role=role)
        return user

    return make


@pytest.fixture
def alice(acme, make_user) -> User:
    return make_user("alice", acme, Membership.Role.OWNER)


@pytest.fixture
def bob(acme, make_user) -> User:
    return make_user("bob", acme, Membership.Role.MEMBER)


@pytest.fixture
def vera(acme, make_user) -> User:
    return make_user("vera", acme, Membership.Role.VIEWER)


@pytest.fixture
def charlie(make_user) -> User:
    return make_user("charlie", Organization.objects.create(name="Elsewhere"), Membership.Role.OWNER)


@pytest.fixture
def as_principal() -> Callable[[User], Principal]:
    return lambda user: principal_for(user=user)


@pytest.fixture
def client_for() -> Callable[[User | None], APIClient]:
    def client(user: User | None) -> APIClient:
        client = APIClient()
        if user is not None:
            client.force_login(user)
        return client

    return client


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    """One house for all tests that need real processes: people come and go, the house stays."""
    with tempfile.TemporaryDirectory(prefix="netra-house-") as folder:
        Path(folder).chmod(0o711)
        house = House(Path(folder), NETRA_SAMPLE_DATA="false")
        try:
            yield house
        finally:
            house.close()
