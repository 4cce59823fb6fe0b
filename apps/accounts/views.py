"""The account pages: sign-up, sign-in, joining, settings."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse, reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from apps.accounts import services
from apps.accounts.forms import (
    ApiKeyForm,
    ChoiceOfOrganization,
    JoinForm,
    OrganizationForm,
    ProfileForm,
    RevokeForm,
    RoleForm,
    SignUpForm,
    first_problem,
)
from apps.accounts.models import Membership, User
from apps.accounts.tenancy import NoOrganization, Principal, principal_for
from apps.errors import Forbidden, Invalid, NetraError, NotFound

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"

# --- Coming in --------------------------------------------------------------------------------------------------------


class SignIn(LoginView):
    template_name = "accounts/sign_in.html"
    redirect_authenticated_user = True
    extra_context = {"open_sign_up": settings.OPEN_SIGN_UP}

    def get_form(self, form_class: Any = None) -> Any:
        form = super().get_form(form_class)
        form.fields["username"].label = "E-mail"
        return form


@sensitive_post_parameters("password")
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    if request.user.is_authenticated:
        return redirect("/")
    if not settings.OPEN_SIGN_UP:
        return render(request, "accounts/sign_up_closed.html", status=services.SignUpClosed.status)
    return _new_person(request, form_class=SignUpForm, invitation=None)


@sensitive_post_parameters("password")
@never_cache
def join(request: HttpRequest, token: str) -> HttpResponse:
    """Take the place an invitation holds: with the account one is signed in to, or with a new one."""
    try:
        invitation = services.read_invitation(token=token)
    except services.InvitationInvalid as error:
        return render(request, "accounts/invitation_invalid.html", {"detail": error.detail}, status=error.status)
    if not request.user.is_authenticated:
        return _new_person(request, form_class=JoinForm, invitation=invitation)
    if request.method == "POST":
        services.join(user=request.user, invitation=invitation)
        messages.success(request, f"You are in {invitation.organization} now.")
        return redirect("/")
    return render(request, "accounts/join.html", {"invitation": invitation})


def _new_person(
    request: HttpRequest, *, form_class: type[forms.Form], invitation: services.Invitation | None
) -> HttpResponse:
    form = form_class(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = services.sign_up(**form.cleaned_data, invitation=invitation)
        except (services.EmailTaken, Invalid) as error:
            form.add_error("email" if isinstance(error, services.EmailTaken) else "password", error.detail)
        else:
            login(request, user, backend=MODEL_BACKEND)
            return redirect("/")
    return render(request, "accounts/sign_up.html", {"form": form, "invitation": invitation})


class ChangePassword(PasswordChangeView):
    template_name = "accounts/password.html"
    success_url = reverse_lazy("accounts:settings")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        services.forget_first_sign_in(user=form.user)
        messages.success(self.request, "Your password is changed. Other browsers were signed out.")
        return response


# --- Settings ---------------------------------------------------------------------------------------------------------


@login_required
@never_cache
def settings_page(request: HttpRequest) -> HttpResponse:
    return _settings(request)


def _settings(request: HttpRequest, **more: Any) -> HttpResponse:
    """The settings page; `more` is what is shown this once: a new key, an invitation link."""
    user = _user(request)
    context: dict[str, Any] = {
        "profile_form": ProfileForm(initial={"name": user.name}),
        "founding_form": OrganizationForm(auto_id="new_%s"),
        "places": services.organizations_of(user=user),
        "open_sign_up": settings.OPEN_SIGN_UP,
    }
    with suppress(NoOrganization):
        context |= _settings_of_organization(principal_for(user=user))
    return render(request, "accounts/settings.html", context | more)


def _settings_of_organization(principal: Principal) -> dict[str, Any]:
    organization = services.organization_of(principal)
    return {
        "organization": organization,
        "role": Membership.Role(principal.role),
        "is_owner": principal.may(Membership.Role.OWNER),
        "roles": Membership.Role.choices,
        "members": services.members(principal),
        "keys": services.api_keys(principal),
        "organization_form": OrganizationForm(initial={"name": organization.name}, auto_id="organization_%s"),
        "invitation_form": RoleForm(auto_id="invitation_%s"),
        "key_form": ApiKeyForm(auto_id="key_%s"),
    }


def _answering(section: str) -> Callable[..., Any]:
    """A change made from the settings page: POST only, then back to its section, with a sentence on how it went.

    The wrapped function returns what to say, or a whole response.
    """

    def decorate(change: Callable[..., str | HttpResponse]) -> Callable[..., HttpResponse]:
        @login_required
        @require_POST
        @never_cache
        def view(request: HttpRequest, **path: Any) -> HttpResponse:
            try:
                said = change(request, **path)
            except NotFound as error:
                raise Http404(error.detail) from None
            except Forbidden as error:
                raise PermissionDenied(error.detail) from None
            except NetraError as error:
                messages.error(request, error.detail)
            else:
                if isinstance(said, HttpResponse):
                    return said
                messages.success(request, said)
            return redirect(f"{reverse('accounts:settings')}#{section}")

        return view

    return decorate


def _action(section: str) -> Callable[..., Any]:
    """The same for a change inside the organization: the wrapped function is handed the principal too."""

    def decorate(change: Callable[..., str | HttpResponse]) -> Any:
        def with_principal(request: HttpRequest, **path: Any) -> str | HttpResponse:
            return change(request, principal_for(user=_user(request)), **path)

        return _answering(section)(with_principal)

    return decorate


@_action("organization")
def rename_organization(request: HttpRequest, principal: Principal) -> str:
    services.rename_organization(principal, name=_read(OrganizationForm, request)["name"])
    return "The organization has a new name."


@_action("members")
def change_role(request: HttpRequest, principal: Principal, user_id: UUID) -> str:
    role = _read(RoleForm, request)["role"]
    services.change_role(principal, user_id=user_id, role=role)
    return f"The role is {role} now."


@_action("members")
def remove_member(request: HttpRequest, principal: Principal, user_id: UUID) -> str:
    services.remove_member(principal, user_id=user_id)
    if user_id == principal.user_id:
        return "You left the organization."
    return "Removed. Their keys and all open invitations for this organization stopped working."


@_action("members")
def invite(request: HttpRequest, principal: Principal) -> HttpResponse:
    role = _read(RoleForm, request)["role"]
    token = services.invite(principal, role=role)
    link = request.build_absolute_uri(reverse("accounts:join", args=[token]))
    return _settings(request, invitation_link=link, invited_role=role)


@_action("members")
def withdraw_invitations(request: HttpRequest, principal: Principal) -> str:
    services.withdraw_invitations(principal)
    return "All invitation links that were handed out stopped working."


@_action("keys")
def create_key(request: HttpRequest, principal: Principal) -> HttpResponse:
    key, text = services.create_api_key(principal, **_read(ApiKeyForm, request))
    return _settings(request, new_key=key, new_key_text=text)


@_action("keys")
def revoke_key(request: HttpRequest, principal: Principal) -> str:
    services.revoke_api_key(principal, prefix=_read(RevokeForm, request)["key"])
    return "The key is revoked; whatever still uses it is refused from now on."


@_answering("profile")
def update_profile(request: HttpRequest) -> str:
    services.update_profile(user=_user(request), name=_read(ProfileForm, request)["name"])
    return "Saved."


@_answering("organization")
def found_organization(request: HttpRequest) -> str:
    founded = services.found_organization(user=_user(request), name=_read(OrganizationForm, request)["name"])
    return f"You own {founded} and act in it from now on."


@_answering("organization")
def choose_organization(request: HttpRequest) -> str:
    chosen = _read(ChoiceOfOrganization, request)["organization"]
    services.choose_organization(user=_user(request), organization_id=chosen)
    return "You act in another organization now; its data and your conversations there are shown."


def _user(request: HttpRequest) -> User:
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def _read(form_class: type[forms.Form], request: HttpRequest) -> dict[str, Any]:
    """The cleaned fields of a posted form.

    Raises:
        Invalid: with the first problem as a sentence.
    """
    form = form_class(request.POST)
    if not form.is_valid():
        raise Invalid(first_problem(form))
    return dict(form.cleaned_data)
