"""The suite itself runs on the embedded services, so these tests look at their edges."""

import pytest
import redis
from django.conf import settings
from django.db import connection


@pytest.mark.django_db
def test_the_suite_runs_on_a_real_postgresql():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::int")

        assert cursor.fetchone()[0] >= 160000


def test_the_suite_runs_on_a_real_redis():
    assert redis.from_url(settings.REDIS_URL).ping()
