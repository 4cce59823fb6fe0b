"""The home: who may have it, and what is said to the others."""

import errno
import json
import os
import stat

import pytest

from apps.operations import house
from apps.operations.embedded import NoSpace

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_home_is_made_with_everything_closed_to_others(tmp_path):
    with house.claimed(tmp_path / "deep" / "home"):
        home = tmp_path / "deep" / "home"

        assert stat.S_IMODE(home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
        assert stat.S_IMODE((home / "files").stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "secret-key").stat().st_mode) == 0o600
        assert (home / "format").read_text() == str(house.FORMAT)


def test_the_secret_key_is_made_once(tmp_path):
    with house.claimed(tmp_path):
        first = (tmp_path / "secret-key").read_text()
    with house.claimed(tmp_path):
        assert (tmp_path / "secret-key").read_text() == first
        assert len(first) >= 50


def test_a_second_start_is_told_where_the_first_one_is(tmp_path):
    with house.claimed(tmp_path):
        with (
            pytest.raises(house.AlreadyRunning, match="Another start is just opening the house"),
            house.claimed(tmp_path),
        ):
            pass
        house.publish(tmp_path, url="http://127.0.0.1:8000")
        with pytest.raises(house.AlreadyRunning, match=r"at http://127\.0\.0\.1:8000"), house.claimed(tmp_path):
            pass
        assert json.loads((tmp_path / "house.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "house.json").exists()


def test_a_stale_house_file_stands_in_nobodys_way(tmp_path):
    (tmp_path / "house.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')

    with house.claimed(tmp_path):
        assert (tmp_path / "lock").exists()


@pytest.mark.parametrize("found", ["2", "999", "new", ""])
def test_the_home_of_a_newer_release_is_left_alone(tmp_path, found):
    (tmp_path / "format").write_text(found)

    with pytest.raises(house.NewerRelease, match="Start that release, or set NETRA_HOME"), house.claimed(tmp_path):
        pass

    assert not (tmp_path / "secret-key").exists()


@as_root
def test_the_home_of_another_user_is_left_alone(tmp_path):
    os.chown(tmp_path, 65534, 65534)

    with pytest.raises(house.HomeOfAnother, match="Start Netra as nobody"), house.claimed(tmp_path):
        pass


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(house.HomeClosed, match="set NETRA_HOME to another directory"), house.claimed(path):
            pass


def test_too_little_space_is_said_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "SPACE_NEEDED", 1 << 62)

    with pytest.raises(NoSpace, match="Free some space"), house.claimed(tmp_path):
        pass


def test_a_disk_that_fills_up_while_writing_is_a_sentence(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(house.os, "fsync", full)

    with pytest.raises(NoSpace, match="is full"), house.claimed(tmp_path):
        pass
