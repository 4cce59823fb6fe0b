"""Releases: who gets the new version, when it is taken back, and what operators can do about it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from statistics import mean
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.accounts.models import User
from apps.operations import flags
from apps.operations.admin import FeatureFlagAdmin
from apps.operations.flags import Counted, Stage, bucket, is_on, reaches
from apps.operations.models import FeatureFlag, FlagOutcome, ReleaseStop
from tests.houses import becomes

CROWD = [UUID(int=Random(7).getrandbits(128) ^ number) for number in range(4000)]
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=64)
GOING_UP = [Stage.OFF, Stage.INTERNAL, Stage.CANARY, Stage.STAGED, Stage.FULL]


# --- Buckets ---------------------------------------------------------------------------------------------------------


@given(NAMES, st.uuids(), st.booleans())
def test_who_is_in_stays_in_while_the_stage_goes_up(flag, user, is_staff):
    inside = [reaches(stage, flag, user_id=user, is_staff=is_staff) for stage in GOING_UP]

    assert inside == sorted(inside)
    assert inside[0] is False
    assert inside[1] is is_staff
    assert inside[-1] is True


@given(NAMES, st.uuids())
def test_a_bucket_is_below_one_and_the_same_each_time(flag, user):
    assert 0 <= bucket(flag, user) < 1
    assert bucket(flag, user) == bucket(flag, user)


def test_a_bucket_is_the_same_for_ever():
    """Another hash would let other users in, in the middle of a release."""
    assert bucket("savings-2", UUID(int=1)) == 0.23225495209517577


@settings(derandomize=True, max_examples=30)
@given(NAMES)
def test_users_spread_evenly_over_the_buckets(flag):
    tenths = [0] * 10
    for user in CROWD:
        tenths[int(bucket(flag, user) * 10)] += 1

    # 400 each, with a standard deviation of 19: five of them.
    assert all(305 <= tenth <= 495 for tenth in tenths), tenths


@settings(derandomize=True, max_examples=30)
@given(st.tuples(NAMES, NAMES).filter(lambda pair: pair[0] != pair[1]))
def test_one_flag_says_nothing_about_another(pair):
    one, other = ([bucket(flag, user) for user in CROWD] for flag in pair)

    covariance = mean(a * b for a, b in zip(one, other, strict=True)) - mean(one) * mean(other)

    assert abs(covariance * 12) < 0.08  # the correlation; its standard deviation is 0.016


# --- Who is in -------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_flag(db):
    def make(stage=Stage.FULL, name="savings-2", **more):
        return FeatureFlag.objects.create(name=name, stage=stage, **more)

    return make


@pytest.fixture
def operator(db):
    return User.objects.create_superuser("operator@example.com", "correct horse battery")


def at(share, flag="savings-2"):
    """A user whose bucket is just below `share`."""
    return max((user for user in CROWD if bucket(flag, user) < share), key=lambda user: bucket(flag, user))


@pytest.mark.parametrize(
    ("stage", "inside"),
    [
        (Stage.OFF, []),
        (Stage.INTERNAL, []),
        (Stage.CANARY, [0.1]),
        (Stage.STAGED, [0.1, 0.5]),
        (Stage.FULL, [0.1, 0.5, 1.0]),
    ],
)
def test_a_stage_lets_its_share_of_users_in_and_the_operators(make_flag, stage, inside):
    make_flag(stage)

    assert [share for share in (0.1, 0.5, 1.0) if is_on("savings-2", user_id=at(share), is_staff=False)] == inside
    assert is_on("savings-2", user_id=at(1.0), is_staff=True) is (stage != Stage.OFF)


@pytest.mark.django_db
def test_a_flag_that_does_not_exist_is_off_and_has_no_fallback():
    assert not is_on("nothing", user_id=at(0.1), is_staff=True)
    assert not flags.falls_back("nothing")


def test_asking_costs_one_query(make_flag, django_assert_num_queries):
    make_flag()

    with django_assert_num_queries(1):
        is_on("savings-2", user_id=at(0.1), is_staff=False)


def test_disable_all_turns_every_flag_off_until_enable_all(make_flag, operator):
    make_flag()
    make_flag(name="triage-2")

    assert flags.disable_all(by=operator)
    assert not any(is_on(flag, user_id=at(0.1), is_staff=True) for flag in ("savings-2", "triage-2"))

    assert flags.enable_all(by=operator)
    assert all(is_on(flag, user_id=at(0.1), is_staff=False) for flag in ("savings-2", "triage-2"))


def test_disabling_twice_is_one_stop_and_all_stops_are_kept(operator):
    assert [flags.disable_all(by=operator) for _ in range(2)] == [True, False]
    assert [flags.enable_all(by=operator) for _ in range(2)] == [True, False]
    assert [flags.disable_all(by=operator), flags.enable_all(by=operator)] == [True, True]

    assert ReleaseStop.objects.filter(disabled_by=operator, enabled_by=operator).count() == 2
    assert flags.open_stop() is None


def test_whether_to_fall_back_is_a_setting_of_the_flag(make_flag):
    make_flag()
    make_flag(name="triage-2", fallback_enabled=False)

    assert flags.falls_back("savings-2")
    assert not flags.falls_back("triage-2")


# --- The automatic stop ----------------------------------------------------------------------------------------------


@pytest.fixture
def record(alice, django_capture_on_commit_callbacks):
    """Record so many runs, and let what follows the commit happen."""

    def record(*, succeeded=0, failed=0, flag="savings-2"):
        with django_capture_on_commit_callbacks(execute=True):
            for success in [True] * succeeded + [False] * failed:
                flags.record_outcome(flag, user_id=alice.pk, run_id=uuid4(), succeeded=success)

    return record


def stage(flag="savings-2"):
    return FeatureFlag.objects.get(pk=flag).stage


def test_a_release_stops_by_itself_where_its_error_rate_reaches_the_limit(make_flag, record):
    make_flag(Stage.CANARY)

    record(succeeded=16, failed=3)
    assert stage() == Stage.CANARY

    record(failed=1)
    stopped = FeatureFlag.objects.get()
    assert stopped.stage == Stage.OFF
    assert stopped.stopped_at is not None
    assert stopped.stopped_reason == "4 of 20 runs failed; the limit is 20 %."
    assert stopped.history.first().stage == Stage.OFF
    assert stopped.history.first().history_change_reason == stopped.stopped_reason


def test_too_few_runs_stop_nothing(make_flag, record):
    make_flag()

    record(failed=19)

    assert stage() == Stage.FULL


def test_a_run_that_succeeds_may_be_the_one_that_completes_the_count(make_flag, record):
    make_flag()
    record(failed=19)

    record(succeeded=1)

    assert stage() == Stage.OFF


def test_runs_below_the_limit_stop_nothing(make_flag, record):
    make_flag()

    record(succeeded=85, failed=15)

    assert stage() == Stage.FULL
    assert flags.counted("savings-2") == Counted(runs=100, failed=15)
    assert flags.counted("savings-2").error_rate == 0.15


@pytest.mark.parametrize(("limit", "failed", "stops"), [("0.07", 7, True), ("0.07", 6, False), ("0", 0, False)])
def test_a_limit_is_met_exactly(make_flag, record, limit, failed, stops):
    """0.07 * 100 is 7.000000000000001 in floats; and a limit of 0 means the first failure, not none."""
    make_flag(error_limit=limit, minimum_runs=100)

    record(succeeded=100 - failed, failed=failed)

    assert (stage() == Stage.OFF) is stops


def test_only_the_latest_runs_count_so_that_a_late_failure_is_noticed(make_flag, record):
    make_flag(window_runs=40)
    record(succeeded=500)

    record(failed=8)

    assert stage() == Stage.OFF
    assert FeatureFlag.objects.get().stopped_reason.startswith("8 of 40 runs")


def test_a_moved_stage_counts_its_runs_afresh(make_flag, record, operator):
    make_flag(Stage.CANARY)
    record(succeeded=15, failed=3)

    assert flags.move("savings-2", to=Stage.STAGED, by=operator)
    record(failed=19)
    assert stage() == Stage.STAGED
    assert flags.counted("savings-2") == Counted(runs=19, failed=19)

    record(failed=1)
    assert stage() == Stage.OFF


def test_a_stopped_release_can_be_moved_on_and_forgets_why_it_stopped(make_flag, record, operator):
    make_flag()
    record(failed=20)

    flags.move("savings-2", to=Stage.CANARY, by=operator)

    flag = FeatureFlag.objects.get()
    assert (flag.stage, flag.stopped_at, flag.stopped_reason) == (Stage.CANARY, None, "")
    assert [(was.stage, was.history_user) for was in flag.history.all()] == [
        (Stage.CANARY, operator),
        (Stage.OFF, None),
        (Stage.FULL, None),
    ]


def test_moving_to_where_it_is_changes_nothing_and_an_unknown_flag_is_said_to_be(make_flag, operator):
    make_flag(Stage.CANARY)

    assert flags.move("savings-2", to=Stage.CANARY, by=operator) is False
    assert FeatureFlag.objects.get().round == 0
    with pytest.raises(flags.FlagNotFound, match="nothing"):
        flags.move("nothing", to=Stage.CANARY, by=operator)
    with pytest.raises(flags.FlagNotFound, match="nothing"):
        flags.counted("nothing")


@pytest.mark.parametrize("order", [(True, False), (False, True), (False, False)])
def test_a_run_counts_once_and_as_failed_if_any_part_of_it_failed(make_flag, alice, order):
    make_flag()
    run = uuid4()

    for succeeded in order:
        flags.record_outcome("savings-2", user_id=alice.pk, run_id=run, succeeded=succeeded)

    assert flags.counted("savings-2") == Counted(runs=1, failed=1)


def test_one_run_counts_for_each_flag_it_used(make_flag, alice):
    make_flag()
    make_flag(name="triage-2")
    run = uuid4()

    for flag in ("savings-2", "triage-2"):
        flags.record_outcome(flag, user_id=alice.pk, run_id=run, succeeded=True)

    assert flags.counted("savings-2") == flags.counted("triage-2") == Counted(runs=1, failed=0)


def test_an_outcome_for_a_flag_that_is_gone_is_dropped(alice, record):
    record(failed=1, flag="nothing")

    assert FlagOutcome.objects.count() == 0


@pytest.mark.parametrize(
    "wrong", [{"error_limit": "1.1"}, {"error_limit": "-0.1"}, {"minimum_runs": 0}, {"window_runs": 19}]
)
def test_settings_that_make_no_sense_are_refused_by_the_database(make_flag, wrong):
    with pytest.raises(IntegrityError), transaction.atomic():
        make_flag(**wrong)


class TestManyAtOnce:
    """Real transactions on connections of their own."""

    pytestmark = pytest.mark.django_db(transaction=True)

    def test_of_many_failures_that_commit_at_once_exactly_one_stops_the_release(self, make_flag, alice):
        make_flag(minimum_runs=12)
        barrier = threading.Barrier(12)

        def settle(run):
            try:
                with transaction.atomic():
                    flags.record_outcome("savings-2", user_id=alice.pk, run_id=run, succeeded=False)
                    barrier.wait(10)  # nobody has committed, so nobody sees anybody else's
            finally:
                connection.close()

        with ThreadPoolExecutor(12) as runs:
            list(runs.map(settle, [uuid4() for _ in range(12)]))

        flag = FeatureFlag.objects.get()
        assert flag.stage == Stage.OFF
        assert [was.stage for was in flag.history.all()] == [Stage.OFF, Stage.FULL]
        assert FlagOutcome.objects.filter(succeeded=False).count() == 12

    def test_the_same_run_recorded_by_many_counts_once(self, make_flag, alice):
        make_flag()
        run, barrier = uuid4(), threading.Barrier(8)

        def record(number):
            try:
                barrier.wait(10)
                flags.record_outcome("savings-2", user_id=alice.pk, run_id=run, succeeded=number != 3)
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as writers:
            list(writers.map(record, range(8)))

        assert flags.counted("savings-2") == Counted(runs=1, failed=1)

    def test_a_stage_moved_while_the_stop_waits_stays_where_it_was_moved(self, make_flag, alice, operator):
        make_flag(Stage.STAGED)
        FlagOutcome.objects.bulk_create(
            FlagOutcome(flag_id="savings-2", round=0, user=alice, run_id=uuid4(), succeeded=False) for _ in range(20)
        )

        def stop():
            try:
                return flags.stop_if_failing("savings-2")
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as somebody_else:
            with transaction.atomic():
                flags.move("savings-2", to=Stage.CANARY, by=operator)
                stopping = somebody_else.submit(stop)
                becomes(_somebody_waits_for_a_lock)
            assert stopping.result(10) is False

        assert stage() == Stage.CANARY

    def test_disabling_by_many_at_once_is_one_stop(self, operator):
        barrier = threading.Barrier(8)

        def disable(_):
            try:
                barrier.wait(10)
                return flags.disable_all(by=operator)
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as operators:
            assert sorted(operators.map(disable, range(8))) == [False] * 7 + [True]

        assert ReleaseStop.objects.count() == 1


def _somebody_waits_for_a_lock():
    with connection.cursor() as cursor:
        cursor.execute("select exists (select from pg_locks where not granted)")
        return cursor.fetchone()[0]


# --- What operators see and do ---------------------------------------------------------------------------------------

PAGE = "/admin/operations/featureflag/"


@pytest.fixture
def desk(client_for, operator):
    return client_for(operator)


def test_the_list_shows_how_each_release_goes(desk, make_flag, record):
    make_flag(Stage.CANARY, name="triage-2")
    make_flag(minimum_runs=30)
    record(succeeded=3, failed=1)

    page = desk.get(PAGE).content.decode()

    assert "25.0% (1 of 4 runs)" in page
    assert "no runs yet" in page
    assert desk.get(f"{PAGE}savings-2/change/").status_code == 200
    assert desk.get(f"{PAGE}savings-2/history/").status_code == 200


@pytest.mark.parametrize("path", ["add/", "savings-2/change/"])
def test_a_flags_page_says_where_its_stage_is_moved(desk, make_flag, path):
    make_flag()

    assert "go to the list of feature flags, choose it there" in desk.get(PAGE + path).content.decode()


@pytest.mark.parametrize("model", ["flagoutcome", "releasestop"])
def test_what_happened_can_be_read_and_not_changed(desk, make_flag, record, operator, model):
    make_flag()
    record(failed=1)
    flags.disable_all(by=operator)

    assert desk.get(f"/admin/operations/{model}/").status_code == 200
    assert desk.get(f"/admin/operations/{model}/add/").status_code == 403


def test_the_reason_of_a_stop_is_shown(desk, make_flag, record):
    make_flag()
    record(failed=20)

    assert "20 of 20 runs failed; the limit is 20 %." in desk.get(PAGE).content.decode()


@pytest.mark.parametrize("to", Stage)
def test_an_action_moves_the_chosen_flags_and_remembers_who_did(desk, make_flag, operator, to):
    start = Stage.FULL if to == Stage.OFF else Stage.OFF
    make_flag(start)
    make_flag(start, name="triage-2")

    desk.post(PAGE, {"action": f"move_to_{to}", "_selected_action": ["savings-2"]}, format="multipart")

    assert (stage(), stage("triage-2")) == (to, start)
    assert FeatureFlag.objects.get(pk="savings-2").history.first().history_user == operator


def test_all_releases_are_disabled_and_enabled_from_the_list(desk, make_flag):
    make_flag()

    asked = desk.get(f"{PAGE}disable_all/")
    assert b"Disable all releases?" in asked.content
    assert is_on("savings-2", user_id=at(0.1), is_staff=False), "a link that is followed changes nothing"

    answer = desk.post(f"{PAGE}disable_all/", {"_form_submitted": "true"}, format="multipart")
    assert answer.headers["HX-Redirect"] == PAGE
    assert not is_on("savings-2", user_id=at(0.1), is_staff=False)
    assert "All releases are off since" in desk.get(PAGE).content.decode()

    desk.post(f"{PAGE}enable_all/", {"_form_submitted": "true"}, format="multipart")
    assert is_on("savings-2", user_id=at(0.1), is_staff=False)


def test_a_new_flag_is_off_whatever_the_form_says(desk):
    desk.post(f"{PAGE}add/", SETTINGS | {"name": "savings-2", "stage": "full", "round": 7}, format="multipart")

    flag = FeatureFlag.objects.get()
    assert (flag.stage, flag.round, flag.minimum_runs) == (Stage.OFF, 0, 5)


SETTINGS = {"description": "", "fallback_enabled": "on", "error_limit": "0.1", "minimum_runs": 5, "window_runs": 10}


def test_settings_change_and_the_stage_stays(desk, make_flag):
    make_flag(Stage.STAGED)

    desk.post(f"{PAGE}savings-2/change/", SETTINGS | {"stage": "full"}, format="multipart")

    flag = FeatureFlag.objects.get()
    assert (flag.stage, flag.minimum_runs) == (Stage.STAGED, 5)
    assert flag.history.first().minimum_runs == 5


def test_a_form_saved_while_the_release_stops_does_not_start_it_again(desk, make_flag, record, monkeypatch):
    make_flag()
    save = FeatureFlagAdmin.save_model

    def save_late(*args, **more):
        record(failed=20)
        save(*args, **more)

    monkeypatch.setattr(FeatureFlagAdmin, "save_model", save_late)
    desk.post(f"{PAGE}savings-2/change/", SETTINGS, format="multipart")

    flag = FeatureFlag.objects.get()
    assert (flag.stage, flag.round, flag.minimum_runs) == (Stage.OFF, 1, 5)
    assert flag.stopped_reason


def test_a_window_smaller_than_the_minimum_is_refused_in_a_sentence(desk, make_flag):
    make_flag()

    answer = desk.post(f"{PAGE}savings-2/change/", SETTINGS | {"window_runs": 4}, format="multipart")

    assert "The window must hold at least the minimum number of runs." in answer.content.decode()


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_owners_of_organizations_do_not_see_releases(request, client_for, make_flag, who):
    make_flag()
    client = client_for(request.getfixturevalue(who))

    assert client.get(PAGE).status_code == 302
    assert client.post(f"{PAGE}disable_all/", {"_form_submitted": "true"}, format="multipart").status_code == 302
    assert ReleaseStop.objects.count() == 0


def test_staff_without_the_permission_cannot_disable(client_for, make_flag, alice):
    make_flag()
    alice.is_staff = True
    alice.save()

    answer = client_for(alice).post(f"{PAGE}disable_all/", {"_form_submitted": "true"}, format="multipart")

    assert answer.status_code == 403
    assert ReleaseStop.objects.count() == 0
