"""`manage.py verify_isolation`: nobody sees anything of anybody else, tried in the running house."""

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from apps.errors import Invalid
from apps.execution.isolation import CONVERSATIONS, try_isolation
from apps.operations.commands import NetraCommand, NoHouse


class Command(NetraCommand):
    help = "Let two people use the running house at once, each trying for what is the other's, and show what crossed."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--seconds", type=float, default=10.0, help="how long they stay (default: 10)")
        parser.add_argument("--url", help="of the web process (default: that of the house started from here)")

    def run(self, **options: Any) -> bool:
        url, seconds = options["url"] or _url_of_house(), options["seconds"]
        if not 0 < seconds <= 24 * 3600:
            raise Invalid("--seconds: give a number of seconds above 0, up to a day.")
        self.say(f"Two people in {CONVERSATIONS} conversations each, for {seconds:g} s at {url} ...")
        findings = try_isolation(url=url.rstrip("/"), seconds=seconds)
        self.tell({"url": url, "seconds": seconds, "tried": findings.tried, "crossed": findings.crossed})
        for what, number in sorted(findings.tried.items()):
            self.say(f"{number:8} {what.replace('_', ' ')}")
        for crossing in findings.crossed:
            self.say(f"CROSSED  the {crossing['who']} person, at {crossing['where']}: {crossing['what']}")
        self.say(f"{len(findings.crossed)} crossings." if findings.crossed else "Nothing crossed.")
        return not findings.crossed


def _url_of_house() -> str:
    try:
        return str(json.loads((Path(settings.NETRA_HOME) / "house.json").read_text())["url"])
    except (OSError, ValueError):
        raise NoHouse("No house was started from here. Start it with `make run`, or give --url.") from None
