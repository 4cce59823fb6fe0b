"""What a role may do over REST; the same rule for every view."""

from typing import Any

from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from apps.accounts.models import ApiKey, Membership, User
from apps.accounts.tenancy import Principal, principal_for


def authenticated_user(request: Request) -> User:
    """The user behind a request that a permission class has let through."""
    assert isinstance(request.user, User)  # noqa: S101  # the permission class saw to it
    return request.user


def principal_of(request: Request) -> Principal:
    """The principal behind an authenticated request, found once per request.

    Raises:
        NotAuthenticated: nobody is signed in.
        NoOrganization: see `principal_for`.
    """
    if not hasattr(request, "principal"):
        if not isinstance(request.user, User):
            raise NotAuthenticated
        key = request.auth if isinstance(request.auth, ApiKey) else None
        request.principal = principal_for(user=request.user, key=key)  # type: ignore[attr-defined]
    return request.principal  # type: ignore[attr-defined,no-any-return]


class _NeedsRole(BasePermission):
    safe: str
    unsafe: str

    def has_permission(self, request: Request, view: Any) -> bool:
        if not (request.user and request.user.is_authenticated):
            return False
        role = self.safe if request.method in SAFE_METHODS else self.unsafe
        return principal_of(request).may(role)


class ReadOrAct(_NeedsRole):
    """Viewers read, members act."""

    safe, unsafe = Membership.Role.VIEWER, Membership.Role.MEMBER


class ReadOrOwn(_NeedsRole):
    """Viewers read, owners change."""

    safe, unsafe = Membership.Role.VIEWER, Membership.Role.OWNER
