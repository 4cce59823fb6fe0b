"""Who acts, and the one way to narrow a query to what belongs to them."""

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from django.db import models

from apps.accounts.models import ApiKey, Membership, User
from apps.errors import Forbidden

RANK = {Membership.Role.VIEWER: 0, Membership.Role.MEMBER: 1, Membership.Role.OWNER: 2}


class NoOrganization(Forbidden):
    """The user is in no organization, so nothing can belong to them."""

    code = "organization.none"


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who acts: a user in one organization, with a role there. Every service takes one and trusts nothing else."""

    user_id: UUID
    organization_id: UUID
    role: str  # a Membership.Role
    plan: str  # a Plan.Code

    def may(self, role: str) -> bool:
        """Whether the principal has at least `role`."""
        return RANK[Membership.Role(self.role)] >= RANK[Membership.Role(role)]


def principal_for(*, user: User, key: ApiKey | None = None) -> Principal:
    """The principal that `user` acts as: in the key's organization, else in the one chosen last.

    A read-only key never acts above viewer. One query.

    Raises:
        NoOrganization: the user is in no organization, or no longer in the key's.
    """
    memberships = Membership.objects.in_order_of_choice(user).select_related("organization")
    if key is not None:
        memberships = memberships.filter(organization_id=key.organization_id)
    membership = memberships.first()
    if membership is None:
        raise NoOrganization("You are in no organization; ask an owner to invite you.")
    read_only = key is not None and key.scope == ApiKey.Scope.READ
    return Principal(
        user_id=user.pk,
        organization_id=membership.organization_id,
        role=Membership.Role.VIEWER if read_only else membership.role,
        plan=str(membership.organization.plan_id),
    )


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Whom a long-lived connection stands for: a user, through an API key or through a session (key None)."""

    user: str
    key: str | None


def principal_now(holder: Holder) -> Principal | None:
    """The rights that the holder has at this moment; None once the user is inactive, or the key expired or revoked.

    Raises:
        NoOrganization: the holder has been removed.
    """
    user = User.objects.filter(pk=holder.user, is_active=True).first()
    if user is None:
        return None
    if holder.key is None:
        return principal_for(user=user)
    key = ApiKey.objects.usable().filter(pk=holder.key, user=user).first()
    return principal_for(user=user, key=key) if key else None


class TenantQuerySet(models.QuerySet[Any]):
    """A queryset whose rows belong to an organization; each query of a service starts here."""

    def for_organization(self, principal: Principal) -> Self:
        """Rows of the principal's organization."""
        return self.filter(organization_id=principal.organization_id)

    def for_creator(self, principal: Principal) -> Self:
        """Rows that the principal made, in the organization they act in."""
        return self.for_organization(principal).filter(user_id=principal.user_id)
