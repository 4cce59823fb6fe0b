"""What all of Netra's commands share: `--json`, the three exit codes, and a sentence instead of a stack trace."""

import errno
import json
import sys
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandParser
from django.db.utils import DatabaseError, OperationalError
from psycopg.errors import DiskFull
from redis.exceptions import ConnectionError as RedisConnectionError

from apps.errors import NetraError

HOLDS, DOES_NOT_HOLD, COULD_NOT_RUN = 0, 1, 2


class NoHouse(NetraError):
    """No PostgreSQL or Redis is configured, and no house was started from this directory."""

    code = "house.not_running"


class NetraCommand(BaseCommand):
    """A command that exits 0 (holds), 1 (does not hold) or 2 (could not run, with the remedy on stderr).

    Subclasses implement `run`, which returns whether the thing holds, and print through `self.say` and `self.tell`.
    """

    needs_house = True
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")

    def run(self, *_: Any, **options: Any) -> bool:
        raise TypeError(f"{type(self).__name__} has to say what it does")

    def handle(self, *args: Any, **options: Any) -> None:
        self.as_json: bool = options.pop("json")
        try:
            if self.needs_house and str(settings.DATABASES["default"]["ENGINE"]).endswith("dummy"):
                raise NoHouse("Netra is not running here. Start it with `make run`, or set DATABASE_URL and REDIS_URL.")
            holds = self.run(**options)
        except NetraError as error:
            self._refuse(error.code, error.detail)
        except (OperationalError, RedisConnectionError, ImproperlyConfigured) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if isinstance(error.__cause__, DiskFull):
                self._refuse("disk.full", f"The disk of the database is full ({reason}). Free some space.")
            self._refuse(NoHouse.code, f"Netra's services cannot be reached ({reason}). Start them with `make run`.")
        except DatabaseError as error:
            self._refuse("house.outdated", f"The database does not fit this release ({str(error).splitlines()[0]}).")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._refuse("disk.full", f"The disk is full ({error}). Free some space and try again.")
        else:
            sys.exit(HOLDS if holds else DOES_NOT_HOLD)

    def say(self, text: str) -> None:
        """A line for a person; silent under --json."""
        if not self.as_json:
            self.stdout.write(text)

    def tell(self, document: Any) -> None:
        """The document for a machine; silent without --json."""
        if self.as_json:
            self.stdout.write(json.dumps(document, default=str))

    def _refuse(self, code: str, detail: str) -> NoReturn:
        if self.as_json:
            self.stdout.write(json.dumps({"code": code, "detail": detail}))
        self.stderr.write(detail)
        sys.exit(COULD_NOT_RUN)
