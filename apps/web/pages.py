"""What every page shares: who asks, and how a refusal looks."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

import structlog
from django.contrib.auth.decorators import login_required
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from apps.accounts.models import User
from apps.accounts.tenancy import NoOrganization, Principal, principal_for
from apps.errors import NetraError
from apps.operations.problems import UnexpectedError, database_away, new_support_id, problem

log = structlog.get_logger(__name__)
Path = ParamSpec("Path")

API = "/api/"
TITLES = {
    400: "That request does not work",
    403: "This is not yours to do",
    404: "There is nothing here",
    409: "Not right now",
    503: "Back in a moment",
    500: "Something went wrong on our side",
}


def page(
    view: Callable[Concatenate[HttpRequest, Principal, Path], HttpResponse],
) -> Callable[Concatenate[HttpRequest, Path], HttpResponse]:
    """A page of somebody who is signed in: it is handed the principal, and an anticipated failure becomes a page."""

    @login_required
    @never_cache
    @wraps(view)
    def wrapped(request: HttpRequest, *args: Path.args, **kwargs: Path.kwargs) -> HttpResponse:
        if not isinstance(request.user, User):
            raise TypeError("login_required lets only our own users pass")
        try:
            return view(request, principal_for(user=request.user), *args, **kwargs)
        except NoOrganization as error:
            return render(request, "web/no_organization.html", {"detail": error.detail}, status=error.status)
        except NetraError as error:
            return refusal(request, status=error.status, code=error.code, detail=error.detail)

    return cast(Callable[Concatenate[HttpRequest, Path], HttpResponse], wrapped)


def refusal(
    request: HttpRequest, *, status: int, code: str, detail: str, support_id: str | None = None
) -> HttpResponse:
    """A failure as a page, or as a problem document below /api/."""
    if request.path.startswith(API):
        body = problem(code=code, detail=detail, status=status, support_id=support_id)
        return JsonResponse(body, status=status, content_type="application/problem+json")
    context = {"title": TITLES.get(status, TITLES[400]), "detail": detail, "status": status, "support_id": support_id}
    return render(request, "web/error.html", context, status=status)


def bad_request(request: HttpRequest, exception: Any = None) -> HttpResponse:
    return refusal(
        request,
        status=400,
        code="request.malformed",
        detail="The request could not be understood. Go back and try again.",
    )


def forbidden(request: HttpRequest, exception: Any = None) -> HttpResponse:
    detail = str(exception or "") or "Your role does not allow this. An owner of your organization can change it."
    return refusal(request, status=403, code="permission.denied", detail=detail)


def csrf_refused(request: HttpRequest, reason: str = "") -> HttpResponse:
    detail = "This form was open for too long, or your browser blocks cookies. Go back, reload the page and try again."
    return refusal(request, status=403, code="csrf.failed", detail=detail)


def not_found(request: HttpRequest, exception: Any = None) -> HttpResponse:
    detail = "It was deleted or moved, it never existed, or it belongs to somebody else."
    if request.path.startswith(API) and request.resolver_match is None:
        detail = "There is no such path; /api/docs/ names those that there are."
    return refusal(request, status=404, code="object.not_found", detail=detail)


def server_error(request: HttpRequest) -> HttpResponse:
    if isinstance(sys.exc_info()[1], OperationalError | InterfaceError):
        away = database_away()
        refused = refusal(request, status=away.status, code=away.code, detail=away.detail)
        refused["Retry-After"] = str(away.retry_after)
        return refused
    support_id = new_support_id()
    # Django has logged the failure itself; this line ties the id that the person sees to it.
    log.error("Page failed", support_id=support_id, path=request.path)
    detail = "It was noted. If it happens again, tell whoever runs this Netra the support id."
    return refusal(request, status=500, code=UnexpectedError.code, detail=detail, support_id=support_id)
