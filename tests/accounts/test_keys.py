"""API keys over REST and from a terminal."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone
from knox.crypto import hash_token
from rest_framework.test import APIClient

from apps.accounts import services
from apps.accounts.authentication import ApiKeyAuthentication
from apps.accounts.models import ApiKey, Membership, Organization
from apps.accounts.tenancy import principal_for
from apps.errors import Invalid

THREADS = "/api/threads/"


def with_key(text):
    return APIClient(headers={"Authorization": f"Bearer {text}"})


@pytest.fixture
def make_key(as_principal):
    def make(user, scope="write", days=30):
        return services.create_api_key(as_principal(user), name="a key", scope=scope, days=days)

    return make


def test_a_key_acts_as_the_person_who_made_it(make_key, bob):
    _, text = make_key(bob)

    created = with_key(text).post(THREADS, {"title": "By key"})

    assert created.status_code == 201
    assert [thread["title"] for thread in with_key(text).get(THREADS).data["results"]] == ["By key"]


def test_only_a_digest_of_a_key_is_kept(make_key, bob):
    key, text = make_key(bob)

    row = ApiKey.objects.values().get()
    assert text not in {str(value) for value in row.values()}
    assert len(key.digest) == 128
    assert text.startswith(key.token_key)


def test_a_reading_key_cannot_write(make_key, alice):
    _, text = make_key(alice, scope="read")

    assert with_key(text).get(THREADS).status_code == 200
    refused = with_key(text).post(THREADS, {})
    assert (refused.status_code, refused.data["code"]) == (403, "permission.denied")
    assert refused.data["detail"] == "This API key is read-only. Create one that may write, on the settings page."


def test_a_viewer_who_writes_is_told_who_can_change_that(client_for, vera):
    refused = client_for(vera).post(THREADS, {})

    assert refused.data["detail"] == "Viewers cannot do this; an owner can give you the member role."


def test_an_expired_key_says_that_it_has_expired(make_key, bob):
    key, text = make_key(bob)
    ApiKey.objects.filter(pk=key.pk).update(expiry=timezone.now() - timedelta(seconds=1))

    answer = with_key(text).get(THREADS)

    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.data["code"] == "authentication.key_expired"
    assert ApiKey.objects.filter(pk=key.pk).exists()


def test_the_beginning_of_an_expired_key_learns_nothing(make_key, bob):
    key, text = make_key(bob)
    ApiKey.objects.filter(pk=key.pk).update(expiry=timezone.now() - timedelta(seconds=1))

    answer = with_key(text[:15] + "0" * (len(text) - 15)).get(THREADS)

    assert answer.data["code"] == "authentication.failed"


@pytest.mark.parametrize("text", ["ntr_wrong", "x" * 500, "", "two words", "schlüssel"])
def test_a_wrong_key_is_refused(db, text):
    answer = APIClient().get(THREADS, headers={"Authorization": f"Bearer {text}".encode().decode("latin-1")})

    assert answer.status_code == 401
    assert answer.data["code"] in {"authentication.failed", "authentication.missing"}


def test_a_key_that_never_expires_works(make_key, bob):
    _, text = make_key(bob, days=None)

    assert with_key(text).get(THREADS).status_code == 200


def test_the_key_of_a_removed_member_stops_working(make_key, alice, bob, as_principal):
    _, text = make_key(bob)
    services.remove_member(as_principal(alice), user_id=bob.pk)

    assert with_key(text).get(THREADS).status_code == 401


def test_a_key_never_reaches_another_organization_of_its_owner(make_key, charlie, acme):
    _, text = make_key(charlie)
    services.join(user=charlie, invitation=services.Invitation(organization=acme, role="member"))
    Membership.objects.filter(user=charlie).exclude(organization=acme).delete()

    answer = with_key(text).get(THREADS)

    assert (answer.status_code, answer.data["code"]) == (403, "organization.none")


def test_a_key_loses_what_its_owner_loses(make_key, bob):
    _, text = make_key(bob)
    Membership.objects.filter(user=bob).update(role="viewer")

    assert with_key(text).post(THREADS, {}).status_code == 403


def test_the_key_of_somebody_locked_out_stops_working(make_key, bob):
    _, text = make_key(bob)
    bob.is_active = False
    bob.save()

    assert with_key(text).get(THREADS).status_code == 401


def test_a_key_revoked_between_two_requests_is_refused_at_once(make_key, bob, as_principal):
    key, text = make_key(bob)
    client = with_key(text)
    assert client.get(THREADS).status_code == 200

    services.revoke_api_key(as_principal(bob), prefix=key.token_key)

    refused = client.get(THREADS)
    assert (refused.status_code, refused.data["code"]) == (401, "authentication.failed")


def test_keys_that_begin_alike_are_told_apart(make_key, bob, charlie):
    key, text = make_key(bob)
    other, _ = make_key(charlie)
    twin = text[:15] + "f" * (len(text) - 15)
    ApiKey.objects.filter(pk=other.pk).update(token_key=key.token_key, digest=hash_token(twin))

    with_key(text).post(THREADS, {"title": "Bob's"})
    with_key(twin).post(THREADS, {"title": "Charlie's"})

    assert [thread["title"] for thread in with_key(text).get(THREADS).data["results"]] == ["Bob's"]
    assert [thread["title"] for thread in with_key(twin).get(THREADS).data["results"]] == ["Charlie's"]


def test_a_key_acts_in_its_own_organization_under_its_plan_whatever_was_chosen_since(make_key, charlie, acme):
    Organization.objects.exclude(pk=acme.pk).update(plan="mid")
    _, text = make_key(charlie)
    services.join(user=charlie, invitation=services.Invitation(organization=acme, role="member"))

    _, key = ApiKeyAuthentication().authenticate_credentials(text.encode())

    assert key.principal == principal_for(user=charlie, key=key)
    assert (key.principal.plan, key.principal.role) == ("mid", "owner")
    assert principal_for(user=charlie).organization_id == acme.pk


def test_what_was_not_read_with_a_key_is_read_when_somebody_asks(make_key, bob):
    key, text = make_key(bob)

    user, found = ApiKeyAuthentication().authenticate_credentials(text.encode())

    assert (user, found, found.user) == (bob, key, bob)
    assert (user.password, found.created, found.name) == (bob.password, key.created, key.name)


def test_use_of_a_key_is_noted_once_a_minute(make_key, bob, django_assert_num_queries):
    key, text = make_key(bob)
    with_key(text).get(THREADS)
    first = ApiKey.objects.get(pk=key.pk).last_used_at
    assert first is not None

    with_key(text).get(THREADS)
    assert ApiKey.objects.get(pk=key.pk).last_used_at == first


@pytest.mark.parametrize(("field", "value"), [("scope", "admin"), ("days", 0), ("days", 4000), ("name", " ")])
def test_a_key_that_cannot_be_is_refused(bob, as_principal, field, value):
    wish = {"name": "k", "scope": "read", "days": 1} | {field: value}

    with pytest.raises(Invalid):
        services.create_api_key(as_principal(bob), **wish)


@pytest.fixture
def in_terminal():
    """Run `create_api_key`; answers (exit status, standard output, standard error)."""

    def run(*words):
        out, err = StringIO(), StringIO()
        with pytest.raises(SystemExit) as exited:
            call_command("create_api_key", *words, stdout=out, stderr=err)
        return exited.value.code, out.getvalue(), err.getvalue()

    return run


def test_a_key_made_in_a_terminal_is_printed_once_and_reads(in_terminal, bob):
    status, said, _ = in_terminal("--email", f" {bob.email.upper()} ", "--name", "nightly export")
    text = said.split()[0]

    key = ApiKey.objects.get()
    assert (status, key.user, key.name, key.scope) == (0, bob, "nightly export", "read")
    assert timedelta(days=89) < key.expiry - timezone.now() < timedelta(days=91)
    assert with_key(text).get(THREADS).status_code == 200
    assert with_key(text).post(THREADS, {}).status_code == 403


def test_a_key_may_last_for_ever_and_be_read_by_a_machine(in_terminal, bob):
    status, said, _ = in_terminal("--email", bob.email, "--name", "ci", "--scope", "write", "--days", "0", "--json")
    made = json.loads(said)

    assert (status, made["name"], made["scope"], made["expires_at"]) == (0, "ci", "write", None)
    assert with_key(made["key"]).post(THREADS, {"title": "By key"}).status_code == 201


@pytest.mark.parametrize("gone", [False, True], ids=["unknown", "deactivated"])
def test_for_nobody_no_key_is_made(in_terminal, bob, gone):
    if gone:
        bob.is_active = False
        bob.save()

    status, said, complaint = in_terminal("--email", bob.email if gone else "nobody@example.org", "--name", "x")

    assert (status, said, ApiKey.objects.count()) == (2, "", 0)
    assert "Nobody has signed up with" in complaint
