"""`manage.py start`: the whole house on one machine."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from apps.errors import NetraError
from apps.operations.commands import NetraCommand
from apps.operations.startup import OpenHouse, keep_house

LAST_PORT = 65535


class NoPort(NetraError):
    """That is not the number of a port."""

    code = "port.invalid"


class Command(NetraCommand):
    help = "Start everything: web, workers, scheduler, and PostgreSQL and Redis unless their URLs are set."
    needs_house = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("--port", default="8000", help="port to listen on (default 8000, 0 is any free one)")

    def run(self, **options: Any) -> bool:
        home = Path(settings.NETRA_HOME).absolute()
        keep_house(home=home, host=options["host"], port=_port(options["port"]), say=self.say, announce=self._announce)
        return True

    def say(self, text: str) -> None:
        """Progress: on stdout for a person, on stderr when stdout carries the JSON line."""
        stream = self.stderr if self.as_json else self.stdout
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            return  # The terminal is gone; the house goes on, and so must its end.

    def _announce(self, opened: OpenHouse) -> None:
        url, sign_in = opened.address.url, opened.sign_in
        if self.as_json:
            self.tell({"ready": True, "url": url, "email": sign_in.email, "password": sign_in.password})
            self.stdout.flush()
        elif sign_in.password:
            self.say(f"Netra is up: {url} - sign in as {sign_in.email} with the password {sign_in.password}")
        else:
            self.say(f"Netra is up: {url}")


def _port(said: str | int) -> int:
    text = str(said).strip()
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_PORT):
        raise NoPort(
            f"{text!r} is no port. Give a whole number up to {LAST_PORT}, for example PORT=8001 or --port 8001."
        )
    return int(text)
