"""What a role may do over REST; the same rule for every view."""

from typing import Any

from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from apps.accounts.models import ApiKey, Membership, User
from apps.accounts.tenancy import Holder, Principal, principal_for


def holder_of(request: Request) -> Holder:
    """Whom a connection that outlives an authenticated request stands for."""
    key = request.auth if isinstance(request.auth, ApiKey) else None
    return Holder(user=str(request.user.pk), key=key.pk if key else None)


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
        known = key.principal if key else None
        request.principal = known or principal_for(user=request.user, key=key)  # type: ignore[attr-defined]
    return request.principal  # type: ignore[attr-defined,no-any-return]


READ_ONLY_KEY = "This API key is read-only. Create one that may write, on the settings page."
VIEWER = "Viewers cannot do this; an owner can give you the member role."


class ReadOrAct(BasePermission):
    """Viewers read, members act."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not (request.user and request.user.is_authenticated):
            return False
        role = Membership.Role.VIEWER if request.method in SAFE_METHODS else Membership.Role.MEMBER
        reads_only = isinstance(request.auth, ApiKey) and request.auth.scope == ApiKey.Scope.READ
        self.message = READ_ONLY_KEY if reads_only else VIEWER  # of a refusal
        return principal_of(request).may(role)
