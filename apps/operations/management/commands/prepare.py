"""`manage.py prepare`: bring the database to this release and make the first sign-in; `start` runs it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from apps.operations.commands import NetraCommand
from apps.operations.dependencies import migrations_on_disk
from apps.operations.first_sign_in import first_sign_in
from apps.operations.house import NewerRelease

ONE_AT_A_TIME = 0x6E657472  # key of the advisory lock: "netr"


class Command(NetraCommand):
    help = "Apply the migrations and make the first sign-in, once; safe to run again."

    def run(self, **options: Any) -> bool:
        with connection.cursor() as cursor:
            # Two houses on one database take turns; the lock ends with this process.
            cursor.execute("SET lock_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(%s)", [ONE_AT_A_TIME])
            cursor.execute("RESET lock_timeout")
        _refuse_newer_database()
        call_command("migrate", interactive=False, verbosity=0)
        sign_in = first_sign_in(Path(settings.NETRA_HOME))
        self.tell(asdict(sign_in))
        self.say("The database is ready.")
        if sign_in.password:
            self.say(f"Sign in as {sign_in.email} with the password {sign_in.password}, and change it.")
        return True


def _refuse_newer_database() -> None:
    applied = set(MigrationRecorder(connection).applied_migrations())
    ours = {label for label, _ in migrations_on_disk()}
    unknown = sorted((label, name) for label, name in applied - migrations_on_disk() if label in ours)
    if unknown:
        raise NewerRelease(
            f"The database was migrated by a newer Netra (it has {'.'.join(unknown[0])}, which this release does not "
            "know). Start that release, or restore a backup from before."
        )
