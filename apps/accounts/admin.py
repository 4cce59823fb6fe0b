"""The operators' view of people, organizations, plans and keys."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Case, When
from django.http import HttpRequest
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from apps.accounts.models import ApiKey, Membership, Organization, Plan, User

# Roles live in memberships; Django's groups would be a second, unused answer to the same question.
admin.site.unregister(Group)


class MembershipInline(TabularInline):  # type: ignore[misc]  # unfold has no types
    model = Membership
    extra = 0
    autocomplete_fields = ["user", "organization"]


@admin.register(Plan)
class PlanAdmin(SimpleHistoryAdmin, ModelAdmin):  # type: ignore[misc]
    list_display = ["code", "max_running_runs", "max_queued_runs", "max_datasets", "max_stored_mib"]
    list_editable = ["max_running_runs", "max_queued_runs", "max_datasets", "max_stored_mib"]
    ordering = [Case(*(When(code=code, then=place) for place, code in enumerate(Plan.Code.values)))]
    history_list_display = ["max_running_runs", "max_queued_runs", "max_datasets", "max_stored_mib"]

    def get_readonly_fields(self, request: HttpRequest, obj: Plan | None = None) -> list[str]:
        return ["code"] if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: Plan | None = None) -> bool:
        return False


@admin.register(Organization)
class OrganizationAdmin(ModelAdmin):  # type: ignore[misc]
    list_display = ["name", "plan", "created_at"]
    list_filter = ["plan"]
    search_fields = ["name", "memberships__user__email"]
    readonly_fields = ["created_at"]
    inlines = [MembershipInline]
    date_hierarchy = "created_at"


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc,type-arg]
    """Passwords are set through forms that hash them; nobody reads one back."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    ordering = ["email"]
    list_display = ["email", "name", "is_active", "is_staff", "last_login", "created_at"]
    list_filter = ["is_active", "is_staff", "memberships__role", "memberships__organization__plan"]
    search_fields = ["email", "name", "memberships__organization__name"]
    readonly_fields = ["created_at", "last_login"]
    filter_horizontal = ["user_permissions"]
    fieldsets = [
        (None, {"fields": ["email", "password", "name"]}),
        ("What they may do", {"fields": ["is_active", "is_staff", "is_superuser", "user_permissions"]}),
        ("When", {"fields": ["last_login", "created_at"]}),
    ]
    add_fieldsets = [(None, {"classes": ["wide"], "fields": ["email", "name", "password1", "password2"]})]
    inlines = [MembershipInline]


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]
    """Keys can be looked at and revoked here; only their owners create them, because the text is shown once."""

    list_display = ["name", "token_key", "user", "organization", "scope", "created", "expiry", "last_used_at"]
    list_filter = ["scope", "expiry"]
    search_fields = ["name", "token_key", "user__email", "organization__name"]
    list_select_related = ["user", "organization"]
    fields = ["name", "token_key", "user", "organization", "scope", "created", "expiry", "last_used_at"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
