"""Make an API key from a terminal."""

from typing import Any

from django.core.management.base import CommandParser

from apps.accounts.models import ApiKey, User
from apps.accounts.services import create_api_key
from apps.accounts.tenancy import principal_for
from apps.errors import NotFound
from apps.operations.commands import NetraCommand


class Command(NetraCommand):
    help = "Create an API key for a user; the key is printed once and kept nowhere."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--email", required=True, help="whose key it is")
        parser.add_argument("--name", required=True, help="where it will be used")
        parser.add_argument("--scope", choices=ApiKey.Scope.values, default=ApiKey.Scope.READ)
        parser.add_argument("--days", type=int, default=90, help="how long it lasts; 0 for ever (default: 90)")

    def run(self, **options: Any) -> bool:
        email, days = options["email"], options["days"] or None
        user = User.objects.filter(email=email.strip().lower(), is_active=True).first()
        if user is None:
            raise NotFound(f"Nobody has signed up with {email!r}.")
        key, text = create_api_key(principal_for(user=user), name=options["name"], scope=options["scope"], days=days)
        self.say(f"{text}\n\nCopy it now; it cannot be shown again. Send it as: Authorization: Bearer {text}")
        self.tell({"key": text, "name": key.name, "scope": key.scope, "expires_at": key.expiry})
        return True
