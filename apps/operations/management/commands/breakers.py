"""`manage.py breakers`: what the circuit breakers say, and an operator's word to them."""

from typing import Any

from django.core.management.base import CommandParser

from apps.operations.breakers import breakers
from apps.operations.commands import NetraCommand
from apps.resilience.breaker import Status


class Command(NetraCommand):
    help = "Show the circuit breakers of tools and models, or switch one."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        word = parser.add_mutually_exclusive_group()
        word.add_argument("--force-open", metavar="NAME", help="let no call through until it is reset")
        word.add_argument("--disable", metavar="NAME", help="let every call through until it is reset")
        word.add_argument("--reset", metavar="NAME", help="close it, and let it judge for itself again")

    def run(self, **options: Any) -> bool:
        all_of_them = breakers()
        for option, switch in (
            ("force_open", all_of_them.force_open),
            ("disable", all_of_them.disable),
            ("reset", all_of_them.reset),
        ):
            if options[option]:
                switch(options[option])
        statuses = all_of_them.statuses()
        self.tell({"breakers": statuses})
        for status in statuses:
            self.say(_line(status))
        if not statuses:
            self.say("No tool and no model has been called yet.")
        return True


def _line(status: Status) -> str:
    rate = "no calls" if status["failure_rate"] is None else f"{status['failure_rate']:.0%} of {status['calls']} failed"
    again = f", tried again in {status['retry_after']:.0f} s" if status["retry_after"] else ""
    return f"{status['name']}: {status['state']}, {rate}, {status['slow']} slow{again}"
