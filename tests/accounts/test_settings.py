"""What the settings page lets whom do."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from apps.accounts import services
from apps.accounts.models import ApiKey, Membership
from apps.accounts.tenancy import NoOrganization, principal_for
from apps.errors import Forbidden, NetraError

S = "/accounts/settings/"


@pytest.fixture
def post(client_for):
    return lambda user, path, **form: client_for(user).post(S + path, form, format="multipart")


ACTIONS = [
    ("profile/", {"name": "A"}),
    ("organization/", {"name": "Acme 2"}),
    ("organizations/", {"name": "New"}),
    ("organizations/choose/", {}),
    ("members/{bob}/role/", {"role": "viewer"}),
    ("members/{bob}/remove/", {}),
    ("invitations/", {"role": "member"}),
    ("invitations/withdraw/", {}),
    ("keys/", {"name": "k", "scope": "read", "days": "30"}),
    ("keys/revoke/", {"key": "ntr_nothing"}),
]
OWNERS_ONLY = [action for action in ACTIONS if action[0].startswith(("organization/", "members/", "invitations/"))]


@pytest.mark.parametrize(("path", "form"), ACTIONS)
def test_nobody_is_sent_to_the_sign_in_page(post, acme, bob, path, form):
    answer = post(None, path.format(bob=bob.pk), **form)

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("path", [path for path, _ in ACTIONS])
def test_actions_are_posts(client_for, alice, bob, path):
    assert client_for(alice).get(S + path.format(bob=bob.pk)).status_code == 405


@pytest.mark.parametrize("who", ["bob", "vera"])
@pytest.mark.parametrize(("path", "form"), OWNERS_ONLY)
def test_members_and_viewers_administer_nothing(request, post, acme, alice, bob, vera, who, path, form):
    target = alice if "remove" in path else bob

    answer = post(request.getfixturevalue(who), path.format(bob=target.pk), **form)

    assert answer.status_code == 403
    acme.refresh_from_db()
    assert (acme.name, acme.invitation_round) == ("Acme", 1)
    assert sorted(acme.memberships.values_list("role", flat=True)) == ["member", "owner", "viewer"]


@pytest.mark.parametrize("path", ["members/{bob}/role/", "members/{bob}/remove/"])
def test_a_stranger_finds_no_member_here(post, bob, charlie, path):
    assert post(charlie, path.format(bob=bob.pk), role="viewer").status_code == 404
    assert principal_for(user=bob).role == "member"


def test_a_stranger_cannot_choose_an_organization_they_are_not_in(post, acme, charlie):
    assert post(charlie, "organizations/choose/", organization=acme.pk).status_code == 404


def test_owners_change_roles_and_remove_people(post, alice, bob, vera):
    post(alice, f"members/{vera.pk}/role/", role="member")
    assert principal_for(user=vera).role == "member"

    post(alice, f"members/{bob.pk}/remove/")
    with pytest.raises(NoOrganization, match="no organization"):
        principal_for(user=bob)


def test_everybody_may_leave(post, vera):
    post(vera, f"members/{vera.pk}/remove/")

    assert not Membership.objects.filter(user=vera).exists()


@pytest.mark.parametrize("path", ["members/{alice}/role/", "members/{alice}/remove/"])
def test_the_last_owner_stays(client_for, alice, bob, path):
    client = client_for(alice)

    client.post(S + path.format(alice=alice.pk), {"role": "member"}, format="multipart")

    assert principal_for(user=alice).role == "owner"
    assert "last owner" in client.get(S).content.decode()


@pytest.mark.django_db(transaction=True)
def test_two_owners_cannot_demote_each_other_at_once(alice, bob, as_principal):
    Membership.objects.filter(user=bob).update(role="owner")
    principals = {bob.pk: as_principal(alice), alice.pk: as_principal(bob)}

    def demote(victim):
        try:
            services.change_role(principals[victim], user_id=victim, role="member")
        except NetraError as error:
            return error.code
        finally:
            connection.close()
        return "done"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(demote, principals))

    assert outcomes in (["done", "permission.denied"], ["done", "organization.last_owner"])
    assert Membership.objects.filter(role="owner").count() == 1


def test_an_owner_of_a_moment_ago_changes_nothing(alice, bob, as_principal):
    stale = as_principal(alice)
    Membership.objects.filter(user=bob).update(role="owner")
    Membership.objects.filter(user=alice).update(role="member")

    with pytest.raises(Forbidden, match="Only an owner"):
        services.remove_member(stale, user_id=bob.pk)


def test_an_invitation_link_is_shown_to_the_owner_who_made_it(post, alice):
    page = post(alice, "invitations/", role="viewer").content.decode()

    token = page.split("/accounts/join/")[1].split("/")[0]
    assert services.read_invitation(token=token).role == "viewer"


@pytest.mark.parametrize("role", ["operator", "", "Owner"])
def test_only_known_roles_are_given(post, alice, bob, role):
    post(alice, f"members/{bob.pk}/role/", role=role)

    assert principal_for(user=bob).role == "member"


@pytest.mark.parametrize(("user", "sees_bobs"), [("alice", True), ("bob", True), ("vera", False), ("charlie", False)])
def test_keys_are_seen_by_whoever_made_them_and_by_owners(request, client_for, bob, as_principal, user, sees_bobs):
    viewer = request.getfixturevalue(user)
    services.create_api_key(as_principal(bob), name="bobs key", scope="write", days=None)

    assert ("bobs key" in client_for(viewer).get(S).content.decode()) is sees_bobs


def test_a_key_is_shown_exactly_once(client_for, bob):
    client = client_for(bob)
    created = client.post(S + "keys/", {"name": "night", "scope": "write", "days": "30"}, format="multipart")
    page = created.content.decode()
    text = page.split('id="new-key">')[1].split("<")[0]

    assert text.startswith("ntr_")
    assert "no-store" in created.headers["Cache-Control"]
    again = client.get(S).content.decode()
    assert text not in again
    assert text[:15] in again


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_keys_are_revoked_by_their_owner_or_an_owner_of_the_house(request, post, bob, as_principal, who):
    key, _ = services.create_api_key(as_principal(bob), name="k", scope="read", days=1)

    post(request.getfixturevalue(who), "keys/revoke/", key=key.token_key)

    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("who", ["vera", "charlie"])
def test_nobody_else_revokes_a_key(request, post, bob, as_principal, who):
    key, _ = services.create_api_key(as_principal(bob), name="k", scope="read", days=1)

    assert post(request.getfixturevalue(who), "keys/revoke/", key=key.token_key).status_code == 404
    assert ApiKey.objects.exists()


def test_a_viewer_makes_keys_that_read_only(post, vera):
    assert post(vera, "keys/", name="k", scope="write", days="30").status_code == 403
    assert post(vera, "keys/", name="k", scope="read", days="30").status_code == 200


def test_what_a_person_calls_themselves_is_shown_as_text(client_for, alice):
    client = client_for(alice)
    client.post(S + "profile/", {"name": "<script>alert(1)</script>"}, format="multipart")

    page = client.get(S).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
