import json
import stat

import pytest
from django.contrib.auth.hashers import make_password

from apps.accounts.models import Membership, User
from apps.operations.first_sign_in import EMAIL, first_sign_in

pytestmark = pytest.mark.django_db


def test_an_empty_house_gets_an_operator_who_owns_the_first_organization(plans, tmp_path):
    sign_in = first_sign_in(tmp_path)

    user = User.objects.get()
    assert (sign_in.email, user.email) == (EMAIL, EMAIL)
    assert user.check_password(sign_in.password)
    assert user.is_staff
    assert user.memberships.get().role == Membership.Role.OWNER
    assert stat.S_IMODE((tmp_path / "first-sign-in").stat().st_mode) == 0o600


def test_it_is_made_once(plans, tmp_path):
    assert first_sign_in(tmp_path) == first_sign_in(tmp_path)
    assert User.objects.count() == 1


def test_the_password_is_forgotten_once_it_was_changed(plans, tmp_path):
    first_sign_in(tmp_path)
    user = User.objects.get()
    user.set_password("another good password")
    user.save()

    sign_in = first_sign_in(tmp_path)

    assert (sign_in.email, sign_in.password) == (EMAIL, None)
    assert not (tmp_path / "first-sign-in").exists()


def test_the_same_password_stored_anew_is_not_a_change(plans, tmp_path):
    before = first_sign_in(tmp_path)
    User.objects.update(password=make_password(before.password))

    assert first_sign_in(tmp_path) == before


def test_a_house_with_people_gets_nobody_new(alice, tmp_path):
    sign_in = first_sign_in(tmp_path)

    assert (sign_in.email, sign_in.password) == (None, None)
    assert User.objects.count() == 1


def test_a_crash_between_file_and_user_heals(plans, tmp_path):
    (tmp_path / "first-sign-in").write_text(json.dumps({"email": EMAIL, "password": "lost", "encoded": "lost"}))

    sign_in = first_sign_in(tmp_path)

    assert User.objects.get().check_password(sign_in.password)
    assert sign_in.password != "lost"
