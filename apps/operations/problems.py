"""Errors over HTTP: `application/problem+json` (RFC 9457) with a stable `code`, and never a stack trace."""

from typing import Any
from uuid import uuid4

import structlog
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from apps.errors import NetraError

log = structlog.get_logger(__name__)


class UnexpectedError(NetraError):
    """A bug: the person gets a support id, the log gets the rest."""

    code = "internal.error"
    status = 500
    retryable = True


class DatabaseAway(NetraError):
    """PostgreSQL, or a free connection to it, was not to be had in time."""

    code = "database.unavailable"
    status = 503
    retryable = True


def database_away() -> DatabaseAway:
    """The refusal of a request that found no connection; whoever repeats it soon loses nothing."""
    return DatabaseAway("The database does not answer at the moment. Nothing was lost; try again.", retry_after=2)


def new_support_id() -> str:
    """A short id to quote to whoever runs this Netra; the log line of the failure carries it too."""
    return uuid4().hex[:12]


def problem(
    *, code: str, detail: str, status: int, errors: list[dict[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """The body of a problem response; `errors` are `{pointer, detail}` per field."""
    body: dict[str, Any] = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    body |= ({"errors": errors} if errors else {}) | {k: v for k, v in more.items() if v is not None}
    return {name: _sendable(value) for name, value in body.items()}


def _sendable(value: Any) -> Any:
    """The same with halves of characters spelled out: a refusal repeats what was sent, and UTF-8 knows no halves."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _sendable(inner) for name, inner in value.items()}
    return [_sendable(inner) for inner in value] if isinstance(value, list) else value


def problem_response(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler: every failure leaves as a problem document with a code and a support id."""
    set_rollback()
    support_id = new_support_id()
    body, headers = _describe(error)
    if body["status"] >= status.HTTP_500_INTERNAL_SERVER_ERROR:
        log.error("Request failed", support_id=support_id, code=body["code"], exc_info=error)
    else:
        log.info("Request refused", support_id=support_id, code=body["code"], status=body["status"])
    return Response(
        body | {"support_id": support_id},
        status=body["status"],
        headers=headers,
        content_type="application/problem+json",
    )


def _describe(error: Exception) -> tuple[dict[str, Any], dict[str, str]]:
    if isinstance(error, Http404):
        error = exceptions.NotFound()
    if isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, OperationalError | InterfaceError):
        error = database_away()
    if isinstance(error, NetraError):
        headers = {"Retry-After": str(max(1, round(error.retry_after)))} if error.retry_after else {}
        return problem(code=error.code, detail=error.detail, status=error.status, retryable=error.retryable), headers
    if isinstance(error, exceptions.APIException):
        return _describe_api_exception(error)
    return problem(
        code=UnexpectedError.code,
        detail="Something went wrong on our side. Quote the support id if it happens again.",
        status=UnexpectedError.status,
        retryable=True,
    ), {}


_CODES = {
    "not_authenticated": "authentication.missing",
    "authentication_failed": "authentication.failed",
    "key_expired": "authentication.key_expired",
    "permission_denied": "permission.denied",
    "not_found": "object.not_found",
    "method_not_allowed": "method.not_allowed",
    "unsupported_media_type": "media.unsupported",
    "not_acceptable": "media.not_acceptable",
    "parse_error": "request.malformed",
    "throttled": "rate.exceeded",
}


def _describe_api_exception(error: exceptions.APIException) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(round(error.wait))  # type: ignore[attr-defined]
    if isinstance(error, exceptions.ValidationError):
        errors = list(_field_errors(error.detail, ""))
        detail = "; ".join(f"{e['pointer'] or 'request'}: {e['detail']}" for e in errors)
        return problem(code="request.invalid", detail=detail, status=error.status_code, errors=errors), headers
    code = _CODES.get(str(error.get_codes()), f"request.{error.get_codes()}")
    return problem(code=code, detail=str(error.detail), status=error.status_code), headers


def _field_errors(detail: Any, pointer: str) -> Any:
    if isinstance(detail, dict):
        for name, inner in detail.items():
            yield from _field_errors(inner, pointer if name == "non_field_errors" else f"{pointer}/{name}")
    elif isinstance(detail, list):
        for inner in detail:
            yield from _field_errors(inner, pointer)
    else:
        yield {"pointer": pointer, "detail": str(detail)}
