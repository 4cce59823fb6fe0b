"""What the lines of the log say about the request they belong to."""

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject
from structlog.contextvars import get_contextvars

from apps.operations.middleware import RequestLog


@pytest.fixture
def said_of():
    """What is said while a request is answered; its user is `user`, who must be asked for."""

    def said(user, **meta):
        heard = {}

        def answer(request):
            heard.update(get_contextvars())
            return HttpResponse()

        request = RequestFactory().get("/", **meta)
        request.user = SimpleLazyObject(user)
        RequestLog(answer)(request)
        return heard

    return said


def test_a_request_is_told_by_its_id_address_and_user(said_of, bob):
    said = said_of(lambda: bob)

    assert (said["ip"], said["user_id"]) == ("127.0.0.1", str(bob.pk))
    assert said["request_id"] != said_of(lambda: bob)["request_id"]
    assert get_contextvars() == {}  # the next request begins anew


def test_whoever_comes_through_a_proxy_is_told_by_their_own_address(said_of, bob):
    assert said_of(lambda: bob, HTTP_X_FORWARDED_FOR="203.0.113.7")["ip"] == "203.0.113.7"


def test_a_request_with_a_key_is_not_asked_whose_session_it_has(said_of):
    def nobody():
        raise AssertionError("the session was asked for")

    assert "user_id" not in said_of(nobody, HTTP_AUTHORIZATION="Bearer ntr_x")


def test_nobody_hides_a_session_behind_a_header(said_of, bob):
    assert said_of(lambda: bob, HTTP_AUTHORIZATION="Basic x", HTTP_COOKIE="sessionid=s")["user_id"] == str(bob.pk)
