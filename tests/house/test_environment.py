"""The environment is read once, and a value that cannot be used is refused with its name."""

import json
import os
import subprocess
import sys

from tests.houses import ROOT


def test_values_that_cannot_be_used_are_all_named_and_nothing_starts():
    wrong = {"NETRA_MAX_UPLOAD_BYTES": "abc", "NETRA_SECRET_KEY": "short-secret"}

    tried = subprocess.run(
        [sys.executable, ROOT / "manage.py", "check"], env=os.environ | wrong, capture_output=True, text=True
    )

    assert tried.returncode == 2
    assert "NETRA_MAX_UPLOAD_BYTES cannot be used" in tried.stderr
    assert "NETRA_SECRET_KEY cannot be used" in tried.stderr
    assert "short-secret" not in tried.stderr
    assert "Traceback" not in tried.stderr


def doctor(home):
    """What `manage.py doctor` says where only `home` tells of a house."""
    elsewhere = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "doctor"],
        env=elsewhere | {"NETRA_HOME": str(home)},
        capture_output=True,
        text=True,
    )


def leave_behind(home, pid):
    """What a house writes that runs as `pid`."""
    stores = {"database_url": "postgresql://127.0.0.1:1/netra", "redis_url": "redis://127.0.0.1:1/0"}
    (home / "house.json").write_text(json.dumps(stores | {"url": "http://127.0.0.1:1/", "pid": pid}))


def test_a_house_that_was_killed_is_not_running_as_little_as_one_that_was_stopped(tmp_path):
    stopped = doctor(tmp_path)
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    leave_behind(tmp_path, killed.pid)

    found = doctor(tmp_path)

    assert "Netra is not running here." in found.stderr
    assert (found.returncode, found.stdout, found.stderr) == (2, "", stopped.stderr)


def test_where_the_house_runs_the_doctor_looks_at_its_stores(tmp_path):
    leave_behind(tmp_path, os.getpid())

    found = doctor(tmp_path)

    assert found.returncode == 1
    assert "MISSING postgresql" in found.stdout
