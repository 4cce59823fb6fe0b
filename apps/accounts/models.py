"""Who there is: organizations, the people in them, what their plan allows, and the keys they act with."""

from typing import Any

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower, Now
from django.utils import timezone
from knox.models import AbstractAuthToken, AuthTokenManager
from simple_history.models import HistoricalRecords
from uuid6 import uuid7


class Plan(models.Model):
    """What an organization may use. The numbers are configuration: change them in the admin."""

    class Code(models.TextChoices):
        FREE = "free"
        EARLY = "early"
        MID = "mid"
        ENTERPRISE = "enterprise"

    code = models.CharField(primary_key=True, max_length=16, choices=Code.choices)
    max_running_runs = models.PositiveSmallIntegerField(default=5, help_text="Runs of one user at the same time.")
    max_queued_runs = models.PositiveIntegerField(
        default=100, help_text="Runs of one user that wait for a place; answers to what a run asks are always taken."
    )
    max_run_seconds = models.PositiveIntegerField(
        default=600, help_text="How long a run may work, waiting not counted."
    )
    tool_calls_per_minute = models.PositiveIntegerField(default=120, help_text="Of one user.")
    tool_calls_per_day = models.PositiveIntegerField(default=10_000, help_text="Of one user.")
    max_datasets = models.PositiveIntegerField(default=100, help_text="Datasets kept by one organization.")
    max_stored_mib = models.PositiveIntegerField(
        default=51_200, help_text="MiB of uploaded files that one organization keeps as datasets, later files included."
    )
    history = HistoricalRecords()

    def __str__(self) -> str:
        return self.code


class Organization(models.Model):  # type: ignore[django-manager-missing]  # knox has no types
    """The tenant: datasets, prices and budgets belong to it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, default=Plan.Code.FREE)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Part of every invitation link: raising it makes all that were handed out worthless.
    invitation_round = models.PositiveIntegerField(default=1, editable=False)

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser, PermissionsMixin):  # type: ignore[django-manager-missing]  # knox has no types
    """A person. Staff are operators: they see all organizations, in the admin only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField("operator", default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Admission picks the least recently served user among those who may have an admissible run.
    runnable = models.BooleanField(default=False, db_default=False, editable=False)
    served_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(email=Lower("email")), name="user_email_lower_case")]
        indexes = [
            models.Index(fields=["served_at"], condition=models.Q(runnable=True), name="user_runnable"),
        ]

    def __str__(self) -> str:
        return self.email


class MembershipQuerySet(models.QuerySet["Membership"]):
    def in_order_of_choice(self, user: User) -> "MembershipQuerySet":
        """The user's places, the one they act in first."""
        return self.filter(user=user).order_by("-chosen_at", "id")


class Membership(models.Model):
    """A user's place in an organization."""

    class Role(models.TextChoices):
        VIEWER = "viewer"
        MEMBER = "member"
        OWNER = "owner"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # The user acts in the organization that they joined or switched to last.
    chosen_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} as {self.role}"


class ApiKeyManager(AuthTokenManager):  # type: ignore[misc]  # knox has no types
    def usable(self) -> "models.QuerySet[ApiKey]":
        """Keys that have not expired."""
        return self.filter(models.Q(expiry=None) | models.Q(expiry__gt=timezone.now()))  # type: ignore[no-any-return]


class ApiKey(AbstractAuthToken):  # type: ignore[misc]  # knox has no types
    """A hashed key that acts for one user in one organization; the key itself is shown once, when it is made."""

    class Scope(models.TextChoices):
        READ = "read"
        WRITE = "write"

    name = models.CharField(max_length=100)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_keys")
    scope = models.CharField(max_length=16, choices=Scope.choices, default=Scope.READ)
    last_used_at = models.DateTimeField(null=True, editable=False)

    objects = ApiKeyManager()

    principal: Any = None  # a `tenancy.Principal`, where authentication has found it with the key

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.token_key}...)"

    @property
    def is_expired(self) -> bool:
        return self.expiry is not None and self.expiry <= timezone.now()
