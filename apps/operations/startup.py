"""Opening a house on one machine: the steps from an empty directory to a page that answers."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from apps.errors import NetraError
from apps.operations import dependencies, embedded, house
from apps.operations.address import Address, free_address
from apps.operations.configuration import is_set, what_leaves_the_machine
from apps.operations.first_sign_in import FirstSignIn
from apps.operations.processes import spawn
from apps.operations.supervisor import LOOK_EVERY, Child, Supervisor

CHECKOUT = Path(__file__).resolve().parents[2]  # where manage.py is
ANSWERS_WITHIN = 60.0  # seconds, for the web process on a slow machine
HOPELESS_AFTER = 3  # deaths of the web process before it ever answered
STANDARD_ERROR = 2  # where every process of the house writes its log
DRAIN_SECONDS = 1.5  # for steps under way; the whole house closes within 5 s
LARGEST_SOCKET_MESSAGE = 1024**2  # bytes


class PreparationFailed(NetraError):
    """The database could not be brought to this release."""

    code = "house.not_prepared"


class WebFailed(NetraError):
    """The web process did not come up."""

    code = "web.failed"


@dataclass(frozen=True, kw_only=True)
class OpenHouse:
    """What the person who started it is told."""

    address: Address
    sign_in: FirstSignIn


def keep_house(
    *, home: Path, host: str, port: int, say: Callable[[str], None], announce: Callable[[OpenHouse], None]
) -> None:
    """Open the house in `home`, announce it, and keep it until SIGINT, SIGTERM or SIGHUP; then close it within 5 s.

    Raises:
        NetraError: it cannot be opened; the sentence says why and what would work. Nothing is left running.
    """
    # SIGINT too: a shell that starts us in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with house.claimed(home):
            _keep(home, host, port, say, announce)
    except KeyboardInterrupt:
        say("Stopped.")


def _keep(home: Path, host: str, port: int, say: Callable[[str], None], announce: Callable[[OpenHouse], None]) -> None:
    address = free_address(host, port)
    supervisor = Supervisor(say)
    services: list[embedded.Service] = []
    try:
        announce(_open(home, address, supervisor, services, say))
        supervisor.watch()
    finally:
        supervisor.stop()
        for service in services:
            service.clean_up()


def _open(
    home: Path,
    address: Address,
    supervisor: Supervisor,
    services: list[embedded.Service],
    say: Callable[[str], None],
) -> OpenHouse:
    urls = _open_stores(home, supervisor, services, say)
    house.publish(home, url=address.url, database_url=urls.get("DATABASE_URL"), redis_url=urls.get("REDIS_URL"))
    environment = child_environment(home, address, urls)
    say("Preparing the database ...")
    sign_in = _prepare(home, environment)
    say("Starting web, workers and scheduler ...")
    web = supervisor.start(_process("web process", web_command(address), environment))
    for name, command in background_commands().items():
        supervisor.start(_process(name, command, environment))
    _seed(home, environment, say)
    _wait_until_it_answers(address, web, supervisor)
    _say_who_reaches_it(address, say)
    say(what_leaves_the_machine())
    return OpenHouse(address=address, sign_in=sign_in)


# --- PostgreSQL and Redis --------------------------------------------------------------------------------------------


def _open_stores(
    home: Path, supervisor: Supervisor, services: list[embedded.Service], say: Callable[[str], None]
) -> dict[str, str]:
    """Start the stores that are not configured, and check those that are; returns the URLs of the started ones."""
    wanted: dict[str, tuple[str, embedded.Service]] = {
        "DATABASE_URL": ("postgresql", embedded.Postgres(home=home)),
        "REDIS_URL": ("redis", embedded.Redis(home=home)),
    }
    started = {}
    for variable, (name, service) in wanted.items():
        if is_set(variable):
            dependencies.require(name)
            say(f"{service.name}: the one of {variable}")
        else:
            started[variable] = (service, _start_service(service, supervisor))
            services.append(service)
            say(f"{service.name}: embedded ({service.version})")
    for service, child in started.values():
        assert child.process is not None  # noqa: S101  # it was just started
        embedded.wait_until_ready(service, child.process)
    return {variable: service.url for variable, (service, _) in started.items()}


def _start_service(service: embedded.Service, supervisor: Supervisor) -> Child:
    service.prepare()
    child = Child(name=service.name, spawn=service.spawn, stop_signal=service.stop_signal, is_server=True)
    return supervisor.start(child)


# --- Processes of our own --------------------------------------------------------------------------------------------


def child_environment(home: Path, address: Address, urls: Mapping[str, str]) -> dict[str, str]:
    """What the processes of the house see: this process's environment, the stores, the home and the names."""
    environment = dict(os.environ) | dict(urls)
    # Without bytecode on disk, every start of every process would compile the whole tree again.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Celery warns about root at each start; whoever starts the house as root knows it.
    environment["PYTHONWARNINGS"] = "ignore:You're running the worker with superuser privileges"
    environment["NETRA_HOME"] = str(home)
    environment["NETRA_DRAIN_SECONDS"] = str(DRAIN_SECONDS)
    own = (*address.names(), urlsplit(address.url).hostname or "")
    environment["NETRA_ALLOWED_HOSTS"] = ",".join(dict.fromkeys([*settings.ALLOWED_HOSTS, *own]))
    return environment


def _python(*words: str) -> list[str | Path]:
    return [sys.executable, *words]


def _manage(*words: str) -> list[str | Path]:
    return [sys.executable, CHECKOUT / "manage.py", *words]


def web_command(address: Address) -> list[str | Path]:
    """Daphne, listening on `address`."""
    words = ["-b", address.host, "-p", str(address.port), "--verbosity", "0", "--server-name", "netra"]
    words += ["--websocket-max-message-size", str(LARGEST_SOCKET_MESSAGE), "--application-close-timeout", "2"]
    return _python("-m", "netra.web_server", *words, "netra.asgi:application")


def background_commands() -> dict[str, list[str | Path]]:
    """The processes behind the pages, by name."""
    quiet = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat")
    worker = ("-m", "celery", "--quiet", "-A", "netra", "worker", *quiet)
    apart = ("-P", "prefork", "--max-tasks-per-child", "20")
    return {
        "agent worker": _python(*worker, "-Q", "agents", "-P", "threads", "-c", "4", "-n", "agents@%h"),
        "tool worker": _python(*worker, "-Q", "tools", *apart, "-c", "2", "-n", "tools@%h"),
        "import worker": _python(*worker, "-Q", "imports", *apart, "-c", "1", "-n", "imports@%h"),
        "scheduler": _manage("scheduler"),
    }


def _process(name: str, command: list[str | Path], environment: Mapping[str, str]) -> Child:
    def start() -> "subprocess.Popen[bytes]":
        return spawn(
            command,
            death_signal=signal.SIGKILL,  # the database decides what was done; there is nothing to say goodbye to
            output=STANDARD_ERROR,
            environment=environment,
            directory=CHECKOUT,
        )

    return Child(name=name, spawn=start)


# --- Once ------------------------------------------------------------------------------------------------------------


def _prepare(home: Path, environment: Mapping[str, str]) -> FirstSignIn:
    """Migrate and make the first sign-in, in a process whose settings know the stores.

    Raises:
        PreparationFailed: with the reason that the process gave.
    """
    code, said, log = _run_once("prepare", _manage("prepare", "--json"), home, environment)
    answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1]) if said.strip() else {}
    if code != 0:
        raise PreparationFailed(answer.get("detail") or f"The database could not be prepared; the reason is in {log}.")
    return FirstSignIn(email=answer["email"], password=answer["password"])


def _seed(home: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Make the sample data at the first start; a house without them works as well."""
    done = home / "sample-data"
    if done.exists() or not settings.SAMPLE_DATA:
        return
    say("Making sample data ...")
    code, _, log = _run_once("sample-data", _manage("sample_usage", "--seed-house"), home, environment)
    if code == 0:
        house.write_privately(done, "made\n")
    else:
        say(f"The sample data could not be made, the next start tries again; the reason is in {log}.")


def _run_once(
    name: str, command: list[str | Path], home: Path, environment: Mapping[str, str]
) -> tuple[int, str, Path]:
    """Exit status, standard output, and the file with standard error, of a command that ends by itself."""
    log = home / "log" / f"{name}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with log.open("wb") as errors:
        process = spawn(
            command,
            death_signal=signal.SIGKILL,
            output=subprocess.PIPE,
            errors=errors,
            environment=environment,
            directory=CHECKOUT,
        )
    with process:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:
            process.kill()
            raise
    return process.returncode, said.decode(), log


def _wait_until_it_answers(address: Address, web: Child, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + ANSWERS_WITHIN
    while (missing := _what_is_missing(address)) is not None:
        supervisor.look(time.monotonic())
        if web.deaths >= HOPELESS_AFTER:
            raise WebFailed("The web process ended again and again; the reason stands in the lines above.")
        if time.monotonic() > deadline:
            raise WebFailed(f"The web process is not ready after {ANSWERS_WITHIN:.0f} s: {missing}.")
        time.sleep(LOOK_EVERY)


def _what_is_missing(address: Address) -> str | None:
    """None once `/readyz` says that all is well, else a reason."""
    target = urlsplit(address.url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=5.0)
    try:
        # Behind TLS the site would answer a plain request with a redirect.
        connection.request("GET", "/readyz", headers={"X-Forwarded-Proto": "https"})
        answer = connection.getresponse()
        return None if answer.status == http.client.OK else f"/readyz answers {answer.status}: {answer.read(500)!r}"
    except OSError as error:
        return str(error)
    finally:
        connection.close()


def _say_who_reaches_it(address: Address, say: Callable[[str], None]) -> None:
    if not address.is_local:
        names = ", ".join(dict.fromkeys([*settings.ALLOWED_HOSTS, *address.names()]))
        say(
            f"Other machines can reach it on port {address.port}. It answers to the names {names}; any other name or "
            "IP address has to be listed in NETRA_ALLOWED_HOSTS. Put TLS in front of it and set NETRA_HTTPS=true."
        )
