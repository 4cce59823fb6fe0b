"""A whole house for tests: `manage.py start` in a home of its own, with real processes that can be killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import requests

from tests.socket_client import Recorder

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"
SETTINGS = "tests.house_settings"
OPENS_WITHIN = 60.0  # seconds
CLOSES_WITHIN = 10.0  # seconds


def becomes(condition: Callable[[], object], *, within: float = 20.0) -> object:
    """The first true answer of `condition`, asked again and again."""
    deadline = time.monotonic() + within
    while True:
        if answer := condition():
            return answer
        assert time.monotonic() < deadline, f"{condition} did not become true within {within:g} s"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class House:
    """A running house, and its processes by name."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self._log = (home / "start.log").open("wb")
        inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "manage.py", "start", "--json", "--port", str(free_port())],
            env=inherited | {"NETRA_HOME": str(home / "home"), "DJANGO_SETTINGS_MODULE": SETTINGS} | environment,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            self.ready = self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        self.url: str = self.ready["url"].rstrip("/")

    def _wait_until_ready(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the house did not open:\n{self.log()}"
        return json.loads(line)

    def log(self) -> str:
        return (self.home / "start.log").read_text(errors="replace")

    def pid_of(self, words: str) -> int | None:
        """The child whose command line contains `words`."""
        for children in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            for pid in children.read_text().split():
                try:
                    line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                except FileNotFoundError:
                    continue
                if words in line:
                    return int(pid)
        return None

    def kill(self, words: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the child whose command line contains `words`, and wait until another one runs."""
        pid = becomes(lambda: self.pid_of(words))
        os.kill(pid, number)
        becomes(lambda: self.pid_of(words) not in (None, pid))

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def sign_up(self, name: str = "") -> "Person":
        """A new person with an organization of their own."""
        email = f"{name or 'person'}-{uuid4().hex[:8]}@example.com"
        person = Person(self.url, email)
        person.submit("/accounts/sign-up/", email=email, password=PASSWORD, organization=f"{name} Ltd", name=name)
        return person

    def sign_in(self, email: str, password: str) -> "Person":
        person = Person(self.url, email)
        person.submit("/accounts/login/", username=email, password=password)
        return person

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(CLOSES_WITHIN)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()


class Person:
    """Somebody with a browser session."""

    def __init__(self, url: str, email: str) -> None:
        self.url, self.email = url, email
        self.session = requests.Session()
        self.session.headers["Referer"] = url

    def submit(self, path: str, **fields: str) -> requests.Response:
        """Fill in the form of a page."""
        page = self.session.get(self.url + path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert token, f"no form at {path}: {page.status_code} {page.text[:500]}"
        filled = fields | {"csrfmiddlewaretoken": token[1]}

        def taken() -> requests.Response | None:
            answer = self.session.post(self.url + path, data=filled, allow_redirects=False)
            return None if answer.status_code == 503 else answer  # it says that nothing was lost: try again

        answer = becomes(taken)
        assert answer.status_code == 302, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer

    def call(self, method: str, path: str, **more) -> requests.Response:
        headers = {"X-CSRFToken": self.session.cookies.get("csrftoken", "")} | more.pop("headers", {})
        return self.session.request(method, f"{self.url}/api/{path}", headers=headers, timeout=30, **more)

    def new_thread(self) -> str:
        answer = self.call("POST", "threads/", json={})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def upload(self, name: str, content: bytes, **fields: str) -> dict:
        """Upload a log and wait until it is imported."""
        answer = self.call("POST", "datasets/", files={"file": (name, content)}, data=fields)
        assert answer.status_code in (201, 202), answer.text
        path = f"datasets/{answer.json()['id']}/"
        return becomes(
            lambda: (found := self.call("GET", path).json())["state"] in ("ready", "failed") and found, within=60
        )

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.session.cookies.items())

    def tab(self) -> Recorder:
        """A browser tab, connected."""
        recorder = Recorder(self.url, cookie=self.cookie)
        recorder.open()
        return recorder
