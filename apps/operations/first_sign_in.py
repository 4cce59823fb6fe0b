"""The first sign-in: an operator who owns the first organization, so that a new house can be entered."""

import contextlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from django.contrib.auth.hashers import check_password
from django.db import transaction

from apps.accounts.models import Membership, Organization, Plan, User
from apps.operations.house import write_privately

EMAIL = "owner@localhost"
ORGANIZATION = "My organization"


@dataclass(frozen=True, kw_only=True)
class FirstSignIn:
    """How to enter; `password` is None once it was changed, and in a house whose people were made elsewhere."""

    email: str | None
    password: str | None


@dataclass(frozen=True, kw_only=True)
class _Kept:
    email: str
    password: str
    encoded: str  # as stored with the user; comparing it takes no half second of hashing


def first_sign_in(home: Path) -> FirstSignIn:
    """Make the first sign-in if there is nobody yet, and say what is left of it."""
    path = home / "first-sign-in"
    kept = _read(path)
    user = User.objects.filter(email=kept.email if kept else EMAIL).first()
    if user is not None and kept is not None and _still_holds(user, kept):
        return FirstSignIn(email=kept.email, password=kept.password)
    if user is not None or User.objects.exists():
        path.unlink(missing_ok=True)
        return FirstSignIn(email=user.email if user else None, password=None)
    return _create(path)


def _read(path: Path) -> _Kept | None:
    with contextlib.suppress(FileNotFoundError):
        return _Kept(**json.loads(path.read_text()))
    return None


def _still_holds(user: User, kept: _Kept) -> bool:
    # A sign-in may store the same password anew, when Django's hashing got stronger.
    return user.password == kept.encoded or check_password(kept.password, user.password)


@transaction.atomic
def _create(path: Path) -> FirstSignIn:
    password = secrets.token_urlsafe(12)
    user = User.objects.create_superuser(EMAIL, password, name="Owner")
    organization = Organization.objects.create(name=ORGANIZATION, plan_id=Plan.Code.ENTERPRISE)
    Membership.objects.create(user=user, organization=organization, role=Membership.Role.OWNER)
    # Before the commit: a crash in between leaves a file without a user, and the next start makes both anew.
    write_privately(path, json.dumps(asdict(_Kept(email=EMAIL, password=password, encoded=user.password))))
    return FirstSignIn(email=EMAIL, password=password)
