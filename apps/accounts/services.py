"""What people do with accounts: sign up, invite, join, change roles, and make keys."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from apps.accounts.models import ApiKey, Membership, Organization, User
from apps.accounts.tenancy import Principal
from apps.errors import Forbidden, Invalid, NetraError, NotFound

INVITATION_LIFETIME = timedelta(days=7)
KEY_DAYS_MAX = 3650
NOT_AN_OWNER = "Only an owner of the organization may do this."
_INVITATIONS = signing.TimestampSigner(salt="accounts.invitation")


class SignUpClosed(Forbidden):
    """This Netra takes new people by invitation only."""

    code = "sign_up.closed"


class EmailTaken(NetraError):
    """Somebody signed up with this address before."""

    code = "email.taken"
    status = 409


class InvitationInvalid(NetraError):
    """The link was changed, has expired, or was withdrawn."""

    code = "invitation.invalid"
    status = 404


class LastOwner(NetraError):
    """Every organization keeps at least one owner."""

    code = "organization.last_owner"
    status = 409


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A place in an organization that is held open for whoever has the link."""

    organization: Organization
    role: str  # a Membership.Role


# --- People -----------------------------------------------------------------------------------------------------------


@transaction.atomic
def sign_up(
    *, email: str, password: str, name: str = "", organization_name: str = "", invitation: Invitation | None = None
) -> User:
    """A new person: as owner of an organization of their own, or in the one they were invited to.

    Raises:
        SignUpClosed: sign-up is by invitation only, and there is none.
        EmailTaken: the address has an account already.
        Invalid: the address or the password cannot be used.
    """
    if invitation is None and not settings.OPEN_SIGN_UP:
        raise SignUpClosed("This Netra takes new people by invitation only. Ask an owner for a link.")
    user = _new_user(email=email, password=password, name=name)
    if invitation is None:
        organization = Organization.objects.create(name=organization_name.strip() or f"{user}'s organization")
        invitation = Invitation(organization=organization, role=Membership.Role.OWNER)
    join(user=user, invitation=invitation)
    return user


def _new_user(*, email: str, password: str, name: str) -> User:
    try:
        validate_email(email.strip())
        validate_password(password, User(email=email.strip().lower(), name=name))
    except ValidationError as error:
        raise Invalid(" ".join(error.messages)) from None
    try:
        with transaction.atomic():
            return User.objects.create_user(email, password, name=name.strip())
    except IntegrityError:
        raise EmailTaken(f"{email.strip().lower()} has an account already. Sign in instead.") from None


def update_profile(*, user: User, name: str) -> None:
    """Change what a person is called."""
    User.objects.filter(pk=user.pk).update(name=name.strip())


def forget_first_sign_in(*, user: User) -> None:
    """Delete the kept first password once it is no longer true."""
    path = settings.NETRA_HOME / "first-sign-in"
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    if isinstance(kept, dict) and kept.get("email") == user.email:
        path.unlink(missing_ok=True)


# --- Organizations and the people in them -----------------------------------------------------------------------------


def organization_of(principal: Principal) -> Organization:
    """The organization that the principal acts in. One query."""
    return Organization.objects.get(pk=principal.organization_id)


def organizations_of(*, user: User) -> Sequence[Membership]:
    """The user's places, with their organizations; the one they act in first."""
    return list(Membership.objects.in_order_of_choice(user).select_related("organization"))


@transaction.atomic
def found_organization(*, user: User, name: str) -> Organization:
    """A new organization with `user` as its owner, who acts in it from now on."""
    if not settings.OPEN_SIGN_UP:
        raise SignUpClosed("This Netra takes new organizations through its operators only.")
    organization = Organization.objects.create(name=_required(name, "The name of an organization"))
    join(user=user, invitation=Invitation(organization=organization, role=Membership.Role.OWNER))
    return organization


def choose_organization(*, user: User, organization_id: UUID) -> None:
    """Act in this organization from now on.

    Raises:
        NotFound: the user is not in it.
    """
    if not Membership.objects.filter(user=user, organization_id=organization_id).update(chosen_at=timezone.now()):
        raise NotFound("You are not in this organization.")


def rename_organization(principal: Principal, *, name: str) -> None:
    """Owners name the organization."""
    _needs_owner(principal)
    Organization.objects.filter(pk=principal.organization_id).update(
        name=_required(name, "The name of an organization")
    )


def members(principal: Principal) -> Sequence[Membership]:
    """Everybody in the principal's organization, longest first."""
    return list(
        Membership.objects.filter(organization_id=principal.organization_id)
        .select_related("user")
        .order_by("created_at", "id")
    )


@transaction.atomic
def change_role(principal: Principal, *, user_id: UUID, role: str) -> None:
    """Give a member another role.

    Raises:
        Forbidden: the principal is not an owner.
        NotFound: nobody with this id is in the organization.
        LastOwner: it would leave the organization without an owner.
    """
    _needs_owner(principal)
    role = _role(role)
    membership = _locked_membership(principal, user_id=user_id)
    if role != Membership.Role.OWNER:
        _keeps_an_owner(membership)
    Membership.objects.filter(pk=membership.pk).update(role=role)
    _withdraw_invitations(principal)


@transaction.atomic
def remove_member(principal: Principal, *, user_id: UUID) -> None:
    """Take a person out of the organization, with the keys they made for it. Everybody may remove themselves.

    Raises:
        Forbidden, NotFound, LastOwner: see `change_role`.
    """
    if user_id != principal.user_id:
        _needs_owner(principal)
    membership = _locked_membership(principal, user_id=user_id)
    _keeps_an_owner(membership)
    membership.delete()
    ApiKey.objects.filter(organization_id=principal.organization_id, user_id=user_id).delete()
    _withdraw_invitations(principal)


def _locked_membership(principal: Principal, *, user_id: UUID) -> Membership:
    # The organization's row serializes changes of its members, so that two owners cannot demote each other.
    Organization.objects.select_for_update(no_key=True).get(pk=principal.organization_id)
    if user_id != principal.user_id:
        _is_owner_still(principal)
    membership = Membership.objects.filter(organization_id=principal.organization_id, user_id=user_id).first()
    if membership is None:
        raise NotFound("Nobody with this id is in your organization.")
    return membership


def _is_owner_still(principal: Principal) -> None:
    places = Membership.objects.filter(organization_id=principal.organization_id, user_id=principal.user_id)
    if not places.filter(role=Membership.Role.OWNER).exists():
        raise Forbidden(NOT_AN_OWNER)


def _keeps_an_owner(membership: Membership) -> None:
    owners = Membership.objects.filter(organization_id=membership.organization_id, role=Membership.Role.OWNER)
    if membership.role == Membership.Role.OWNER and owners.count() == 1:
        raise LastOwner("This is the last owner. Make somebody else an owner first.")


# --- Invitations ------------------------------------------------------------------------------------------------------


def invite(principal: Principal, *, role: str) -> str:
    """A token that gives whoever has it a place with `role` for 7 days, or until a member is removed or changed."""
    _needs_owner(principal)
    organization = organization_of(principal)
    return _INVITATIONS.sign_object([str(organization.pk), _role(role), organization.invitation_round])


def withdraw_invitations(principal: Principal) -> None:
    """Make every link that was handed out worthless."""
    _needs_owner(principal)
    _withdraw_invitations(principal)


def _withdraw_invitations(principal: Principal) -> None:
    Organization.objects.filter(pk=principal.organization_id).update(invitation_round=F("invitation_round") + 1)


def read_invitation(*, token: str) -> Invitation:
    """The invitation behind a token.

    Raises:
        InvitationInvalid: it was changed, has expired, or was withdrawn.
    """
    try:
        organization_id, role, round_ = _INVITATIONS.unsign_object(token, max_age=INVITATION_LIFETIME)
    except signing.SignatureExpired:
        raise InvitationInvalid("This invitation has expired. Ask for a new link.") from None
    except signing.BadSignature:
        raise InvitationInvalid("This invitation is not valid. Check that the link is complete.") from None
    organization = Organization.objects.filter(pk=organization_id, invitation_round=round_).first()
    if organization is None:
        raise InvitationInvalid("This invitation was withdrawn. Ask for a new link.")
    return Invitation(organization=organization, role=role)


def join(*, user: User, invitation: Invitation) -> None:
    """Take the place; somebody who is in the organization already keeps the role they have."""
    Membership.objects.get_or_create(
        organization=invitation.organization, user=user, defaults={"role": invitation.role}
    )
    choose_organization(user=user, organization_id=invitation.organization.pk)


# --- API keys ---------------------------------------------------------------------------------------------------------


def api_keys(principal: Principal) -> Sequence[ApiKey]:
    """The principal's keys, newest first; owners see everybody's. Expired ones are listed too."""
    return list(_visible_keys(principal).select_related("user").order_by("-created"))


def create_api_key(principal: Principal, *, name: str, scope: str, days: int | None) -> tuple[ApiKey, str]:
    """A new key and its full text, which is not kept and cannot be shown again. `days` None: it never expires.

    Raises:
        Forbidden: a viewer asked for a key that may write.
        Invalid: the name, scope or number of days cannot be used.
    """
    if scope not in ApiKey.Scope.values:
        raise Invalid(f"The scope {scope!r} is unknown; use one of {', '.join(ApiKey.Scope.values)}.")
    if scope == ApiKey.Scope.WRITE and not principal.may(Membership.Role.MEMBER):
        raise Forbidden("Viewers may create keys that read, not keys that write.")
    if days is not None and not 1 <= days <= KEY_DAYS_MAX:
        raise Invalid(f"A key can last 1 to {KEY_DAYS_MAX} days, or for ever; {days} is neither.")
    key: tuple[ApiKey, str] = ApiKey.objects.create(
        user=User.objects.get(pk=principal.user_id),
        organization_id=principal.organization_id,
        name=_required(name, "The name of a key"),
        scope=scope,
        expiry=None if days is None else timedelta(days=days),
    )
    return key


def revoke_api_key(principal: Principal, *, prefix: str) -> None:
    """Make a key worthless at once, named by its visible beginning; owners may revoke everybody's.

    Raises:
        NotFound: there is no such key, or it is not the principal's to see.
    """
    deleted, _ = _visible_keys(principal).filter(token_key=prefix).delete()
    if not deleted:
        raise NotFound("There is no such key; it may have been revoked already.")


def _visible_keys(principal: Principal) -> Any:
    keys = ApiKey.objects.filter(organization_id=principal.organization_id)
    return keys if principal.may(Membership.Role.OWNER) else keys.filter(user_id=principal.user_id)


# --- Small rules ------------------------------------------------------------------------------------------------------


def _needs_owner(principal: Principal) -> None:
    if not principal.may(Membership.Role.OWNER):
        raise Forbidden(NOT_AN_OWNER)


def _role(role: str) -> str:
    if role not in Membership.Role.values:
        raise Invalid(f"The role {role!r} is unknown; use one of {', '.join(Membership.Role.values)}.")
    return role


def _required(text: str, what: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= 100:
        raise Invalid(f"{what} has 1 to 100 characters.")
    return text
