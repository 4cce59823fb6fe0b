"""Signing up, in and out, and joining by invitation."""

import json

import pytest
from django.core import signing
from django.urls import reverse

from apps.accounts import services
from apps.accounts.models import Membership, User
from apps.accounts.tenancy import principal_for
from tests.conftest import PASSWORD

SIGN_UP = {"name": "Dora", "organization_name": "Dora Ltd", "email": "Dora@Example.com", "password": PASSWORD}


@pytest.fixture
def nobody(client_for):
    return client_for(None)


@pytest.fixture
def invitation(alice, as_principal):
    return services.invite(as_principal(alice), role="member")


def test_signing_up_founds_an_organization_and_signs_in(nobody, db):
    answer = nobody.post("/accounts/sign-up/", SIGN_UP, format="multipart")

    assert answer.headers["Location"] == "/"
    dora = User.objects.get(email="dora@example.com")
    assert dora.check_password(PASSWORD)
    membership = dora.memberships.get()
    assert (membership.role, membership.organization.name) == ("owner", "Dora Ltd")
    assert nobody.get("/accounts/settings/").status_code == 200


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"email": "alice@EXAMPLE.com"}, "has an account already"),
        ({"email": "no address"}, "valid email"),
        ({"password": "short"}, "at least 10 characters"),
        ({"password": "password1234"}, "too common"),
        ({"name": "x" * 101}, "at most 100 characters"),
    ],
)
def test_a_sign_up_that_cannot_be_says_why(nobody, alice, changed, said):
    answer = nobody.post("/accounts/sign-up/", SIGN_UP | changed, format="multipart")

    assert said in answer.content.decode()
    assert not User.objects.filter(email="dora@example.com").exists()


def test_with_closed_doors_only_the_invited_come_in(nobody, invitation, settings):
    settings.OPEN_SIGN_UP = False

    refused = nobody.post("/accounts/sign-up/", SIGN_UP, format="multipart")
    assert refused.status_code == 403
    assert "by invitation only" in refused.content.decode()
    assert not User.objects.filter(email="dora@example.com").exists()

    nobody.post(reverse("accounts:join", args=[invitation]), SIGN_UP, format="multipart")
    assert User.objects.get(email="dora@example.com").memberships.get().role == "member"


def test_the_invited_join_the_organization_that_invited_them(nobody, acme, invitation):
    page = nobody.get(reverse("accounts:join", args=[invitation]))
    assert "Join Acme" in page.content.decode()

    nobody.post(reverse("accounts:join", args=[invitation]), SIGN_UP, format="multipart")

    assert principal_for(user=User.objects.get(email="dora@example.com")).organization_id == acme.pk


def test_whoever_has_an_account_joins_with_it_and_acts_there_from_now_on(client_for, charlie, acme, invitation):
    before = principal_for(user=charlie)
    assert client_for(charlie).get(reverse("accounts:join", args=[invitation])).status_code == 200
    assert principal_for(user=charlie) == before  # looking is not joining

    client_for(charlie).post(reverse("accounts:join", args=[invitation]))
    assert principal_for(user=charlie).organization_id == acme.pk
    assert principal_for(user=charlie).role == "member"

    client_for(charlie).post(
        "/accounts/settings/organizations/choose/", {"organization": before.organization_id}, "multipart"
    )
    assert principal_for(user=charlie) == before


def test_an_invitation_gives_nobody_a_lower_role_than_they_have(client_for, alice, invitation):
    client_for(alice).post(reverse("accounts:join", args=[invitation]))

    assert principal_for(user=alice).role == "owner"


def _changed(token):
    return token[:-1] + ("A" if token[-1] != "A" else "B")


def test_a_changed_invitation_is_worth_nothing(nobody, invitation):
    answer = nobody.get(reverse("accounts:join", args=[_changed(invitation)]))

    assert answer.status_code == 404
    assert "not valid" in answer.content.decode()


def test_an_invitation_ends_after_seven_days(invitation, monkeypatch):
    now = signing.time.time()
    monkeypatch.setattr(signing.time, "time", lambda: now + 7 * 86400 - 60)
    assert services.read_invitation(token=invitation).role == "member"

    monkeypatch.setattr(signing.time, "time", lambda: now + 7 * 86400 + 60)
    with pytest.raises(services.InvitationInvalid, match="expired"):
        services.read_invitation(token=invitation)


@pytest.mark.parametrize("change", ["remove", "demote", "withdraw"])
def test_an_invitation_dies_when_members_change_or_it_is_withdrawn(alice, bob, invitation, as_principal, change):
    principal = as_principal(alice)
    match change:
        case "remove":
            services.remove_member(principal, user_id=bob.pk)
        case "demote":
            services.change_role(principal, user_id=bob.pk, role="viewer")
        case "withdraw":
            services.withdraw_invitations(principal)

    with pytest.raises(services.InvitationInvalid, match="withdrawn"):
        services.read_invitation(token=invitation)


def test_signing_in_leads_to_where_one_wanted_to_go(nobody, alice):
    wanted = nobody.get("/accounts/settings/")
    assert wanted.headers["Location"] == "/accounts/login/?next=/accounts/settings/"

    form = {"username": "Alice@Example.com", "password": PASSWORD, "next": "/accounts/settings/"}
    assert nobody.post("/accounts/login/", form, format="multipart").headers["Location"] == "/accounts/settings/"


def test_signing_in_never_leads_away_from_the_site(nobody, alice):
    form = {"username": alice.email, "password": PASSWORD, "next": "https://evil.example/"}

    assert nobody.post("/accounts/login/", form, format="multipart").headers["Location"] == "/"


def test_ten_failures_lock_the_door_and_say_so(nobody, alice):
    for _ in range(10):
        answer = nobody.post("/accounts/login/", {"username": alice.email, "password": "wrong"}, format="multipart")
    assert answer.status_code == 429
    assert "Too many attempts" in answer.content.decode()

    right = nobody.post("/accounts/login/", {"username": alice.email, "password": PASSWORD}, format="multipart")
    assert right.status_code == 429


def test_signing_out_takes_a_post(client_for, alice):
    client = client_for(alice)
    assert client.get("/accounts/logout/").status_code == 405
    assert client.get("/accounts/settings/").status_code == 200

    client.post("/accounts/logout/")
    assert client.get("/accounts/settings/").status_code == 302


@pytest.fixture
def home(settings, tmp_path):
    settings.NETRA_HOME = tmp_path
    return tmp_path


def _change_password(client):
    new = "a better battery staple"
    form = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert client.post("/accounts/password/", form, format="multipart").status_code == 302


@pytest.mark.parametrize(("whose", "kept"), [("alice@example.com", False), ("bob@example.com", True)])
def test_the_first_password_is_forgotten_once_it_is_changed(client_for, alice, home, whose, kept):
    (home / "first-sign-in").write_text(json.dumps({"email": whose, "password": PASSWORD}))

    _change_password(client_for(alice))

    assert (home / "first-sign-in").exists() is kept


@pytest.mark.parametrize("content", ["no json", "[]", ""])
def test_a_spoilt_first_sign_in_file_does_not_stop_a_password_change(client_for, alice, home, content):
    (home / "first-sign-in").write_text(content)

    _change_password(client_for(alice))


def test_a_membership_is_needed_to_act_and_the_pages_say_so(client_for, bob):
    Membership.objects.filter(user=bob).delete()

    assert "You are in no organization" in client_for(bob).get("/").content.decode()
    assert "in no organization" in client_for(bob).get("/accounts/settings/").content.decode()

    client_for(bob).post("/accounts/settings/organizations/", {"name": "Bob & Co"}, format="multipart")
    assert principal_for(user=bob).role == "owner"
