"""Flags of releases: who gets the new version of an agent or a workflow, and when it is taken back.

PostgreSQL is asked each time, by one statement on primary keys; nothing is kept in a process. So "disable all" and an
automatic stop hold from their commit on, in every process.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import Exists, F
from django.db.models.functions import Now

from apps.accounts.models import User
from apps.errors import NotFound
from apps.operations.models import FeatureFlag, ReleaseStop

log = structlog.get_logger(__name__)

Stage = FeatureFlag.Stage

# The share of users that a stage lets in, besides the operators, who are in from `internal` on.
SHARES = {Stage.OFF: 0.0, Stage.INTERNAL: 0.0, Stage.CANARY: 0.1, Stage.STAGED: 0.5, Stage.FULL: 1.0}


class FlagNotFound(NotFound):
    """No flag has that name."""

    code = "flag.not_found"


# --- Who is in -------------------------------------------------------------------------------------------------------


def bucket(flag: str, user_id: UUID) -> float:
    """Where a user stands for a flag, in [0, 1): the same for ever, even over users, independent between flags."""
    digest = hashlib.sha256(user_id.bytes + flag.encode()).digest()
    # 53 bits, all that a float holds: with more, the highest would round up to 1.
    return (int.from_bytes(digest[:7]) >> 3) / 2**53


def reaches(stage: Stage, flag: str, *, user_id: UUID, is_staff: bool) -> bool:
    """Whether a stage lets a user in. Who is in stays in while the stage goes up."""
    return bucket(flag, user_id) < SHARES[stage] or (is_staff and stage != Stage.OFF)


def is_on(flag: str, *, user_id: UUID, is_staff: bool) -> bool:
    """Whether a user gets the new version; a flag that does not exist is off. One query."""
    open_stop = ReleaseStop.objects.filter(enabled_at=None)
    stage = FeatureFlag.objects.filter(~Exists(open_stop), pk=flag).values_list("stage", flat=True).first()
    return stage is not None and reaches(Stage(stage), flag, user_id=user_id, is_staff=is_staff)


def falls_back(flag: str) -> bool:
    """Whether the former version takes over where the new one fails; False for a flag that does not exist."""
    return FeatureFlag.objects.filter(pk=flag, fallback_enabled=True).exists()


# --- How it goes -----------------------------------------------------------------------------------------------------

_RECORD = """
insert into operations_flagoutcome as earlier (flag_id, round, user_id, run_id, succeeded)
select name, round, %(user)s, %(run)s, %(succeeded)s from operations_featureflag where name = %(flag)s
on conflict (flag_id, run_id) do update set succeeded = earlier.succeeded and excluded.succeeded
"""
_COUNT = """
select flag.name, flag.round, count(latest.succeeded) as runs, count(*) filter (where not latest.succeeded) as failed
from operations_featureflag flag left join lateral (
    select succeeded from operations_flagoutcome outcome
    where outcome.flag_id = flag.name and outcome.round = flag.round
    order by outcome.id desc limit flag.window_runs
) latest on true
where flag.name = %(flag)s group by flag.name
"""
# Compare-and-set on the round: a stage that was moved since the count keeps what it was moved to.
_STOP = f"""
with counted as materialized ({_COUNT})
update operations_featureflag flag
set stage = 'off', round = flag.round + 1, stopped_at = clock_timestamp(), updated_at = clock_timestamp(),
    stopped_reason = format('%%s of %%s runs failed; the limit is %%s %%%%.', counted.failed, counted.runs,
        trim_scale(flag.error_limit * 100))
from counted
where flag.name = counted.name and flag.round = counted.round and flag.stage <> 'off'
  and counted.runs >= flag.minimum_runs
  and counted.failed > 0 and counted.failed >= flag.error_limit * counted.runs
returning flag.stopped_reason
"""  # noqa: S608  # fixed parts only


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The latest runs under a flag since its stage was last changed."""

    runs: int
    failed: int

    @property
    def error_rate(self) -> float | None:
        """The share that failed, 0..1; None before the first run."""
        return self.failed / self.runs if self.runs else None


def record_outcome(flag: str, *, user_id: UUID, run_id: UUID, succeeded: bool) -> None:
    """Note how a run under a flag went, and stop the release if it fails too often.

    A run counts once per flag, and as failed if any of what was recorded for it failed. Nothing is recorded for a flag
    that does not exist. The stop is looked at after the commit: of runs that end at once, the last one sees them all.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_RECORD, {"flag": flag, "user": user_id, "run": run_id, "succeeded": succeeded})
        transaction.on_commit(lambda: stop_if_failing(flag), robust=True)


def counted(flag: str) -> Counted:
    """How the runs under a flag went.

    Raises:
        FlagNotFound: there is no such flag.
    """
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"flag": flag})
        found = cursor.fetchone()
    if found is None:
        raise FlagNotFound(f"There is no flag {flag!r}.")
    return Counted(runs=found[2], failed=found[3])


def stop_if_failing(flag: str) -> bool:
    """Turn a release off whose error rate has reached its limit; False where nothing was to be stopped."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_STOP, {"flag": flag})
        stopped = cursor.fetchone()
        if stopped is None:
            return False
        _remember(flag, reason=stopped[0])
    log.warning("Release stopped", flag=flag, reason=stopped[0])
    return True


# --- What operators do -----------------------------------------------------------------------------------------------


def move(flag: str, *, to: Stage, by: User) -> bool:
    """Move a flag to another stage, and count its runs afresh; False when it is there already.

    Raises:
        FlagNotFound: there is no such flag.
    """
    with transaction.atomic():
        elsewhere = FeatureFlag.objects.filter(pk=flag).exclude(stage=to)
        if elsewhere.update(stage=to, round=F("round") + 1, stopped_at=None, stopped_reason="", updated_at=Now()):
            _remember(flag, by=by)
            return True
    if not FeatureFlag.objects.filter(pk=flag).exists():
        raise FlagNotFound(f"There is no flag {flag!r}.")
    return False


def disable_all(*, by: User) -> bool:
    """Turn every flag off at once, whatever its stage; False when they are off already."""
    with connection.cursor() as cursor:
        cursor.execute(
            "insert into operations_releasestop (disabled_by_id) values (%s) on conflict do nothing", [by.pk]
        )
        return bool(cursor.rowcount)


def enable_all(*, by: User) -> bool:
    """Let the stages count again, as they are now; False when they do already."""
    return ReleaseStop.objects.filter(enabled_at=None).update(enabled_at=Now(), enabled_by=by) == 1


def open_stop() -> ReleaseStop | None:
    """The stop under which no flag is on; None where the stages count."""
    return ReleaseStop.objects.select_related("disabled_by").filter(enabled_at=None).first()


def _remember(flag: str, *, by: User | None = None, reason: str = "") -> None:
    """Put the flag as it is now into its history, which sees no change that one statement makes."""
    now = FeatureFlag.objects.get(pk=flag)
    FeatureFlag.history.bulk_history_create([now], update=True, default_user=by, default_change_reason=reason)
