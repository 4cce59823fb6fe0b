"""Who acts, and the one way to narrow a query to what belongs to them."""

from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from django.db import models

from apps.accounts.models import ApiKey, Membership, User
from apps.errors import Forbidden
from apps.statements import fetch

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


_PLACE = """
select membership.organization_id, membership.role, organization.plan_id
from accounts_membership membership
join accounts_organization organization on organization.id = membership.organization_id
where membership.user_id = %(user)s
    and (%(organization)s::uuid is null or membership.organization_id = %(organization)s)
order by membership.chosen_at desc, membership.id limit 1
"""


def principal_for(*, user: User, key: ApiKey | None = None) -> Principal:
    """The principal that `user` acts as: in the key's organization, else in the one chosen last. One query.

    Raises:
        NoOrganization: the user is in no organization, or no longer in the key's.
    """
    places = fetch(_PLACE, {"user": user.pk, "organization": key.organization_id if key else None})
    if not places:
        raise NoOrganization("You are in no organization; ask an owner to invite you.")
    organization_id, role, plan = places[0]
    if key is not None:
        return principal_by_key(key, role=role, plan=plan)
    return Principal(user_id=user.pk, organization_id=organization_id, role=role, plan=plan)


def principal_by_key(key: ApiKey, *, role: str, plan: str) -> Principal:
    """Whoever acts with `key`, whose user has `role` in its organization. A read-only key never acts above viewer."""
    reads_only = key.scope == ApiKey.Scope.READ
    return Principal(
        user_id=key.user_id,
        organization_id=key.organization_id,
        role=Membership.Role.VIEWER if reads_only else role,
        plan=plan,
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
