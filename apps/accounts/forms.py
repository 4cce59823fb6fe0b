"""The forms of the account pages: they read fields; the rules are in `services`."""

from typing import Any

from django import forms

from apps.accounts.models import ApiKey, Membership

PASSWORD_HELP = "At least 10 characters, and not a common password."  # noqa: S105


class JoinForm(forms.Form):
    """What a person says of themselves when they are invited."""

    name = forms.CharField(
        label="Your name", max_length=100, required=False, widget=forms.TextInput({"autocomplete": "name"})
    )
    email = forms.EmailField(label="E-mail", widget=forms.EmailInput({"autocomplete": "email"}))
    password = forms.CharField(
        strip=False, help_text=PASSWORD_HELP, widget=forms.PasswordInput({"autocomplete": "new-password"})
    )


class SignUpForm(JoinForm):
    """The same, and the organization that is founded with it."""

    organization_name = forms.CharField(
        label="Organization",
        max_length=100,
        required=False,
        help_text="A name for the place where your data lives. You can invite others to it.",
        widget=forms.TextInput({"autocomplete": "organization"}),
    )
    field_order = ["name", "organization_name", "email", "password"]


class ProfileForm(forms.Form):
    name = forms.CharField(
        label="Your name", max_length=100, required=False, widget=forms.TextInput({"autocomplete": "name"})
    )


class OrganizationForm(forms.Form):
    name = forms.CharField(label="Name of the organization", max_length=100)


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=Membership.Role.choices, initial=Membership.Role.MEMBER)


class ChoiceOfOrganization(forms.Form):
    organization = forms.UUIDField()


class ApiKeyForm(forms.Form):
    """A key to make; no number of days means that it never expires."""

    name = forms.CharField(max_length=100, help_text="Where you will use it, for example “nightly export”.")
    scope = forms.ChoiceField(
        choices=[(ApiKey.Scope.READ, "Read only"), (ApiKey.Scope.WRITE, "Read and write")],
        initial=ApiKey.Scope.READ,
    )
    days = forms.TypedChoiceField(
        label="Expires",
        choices=[("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"), ("", "never")],
        initial="90",
        required=False,
        coerce=int,
        empty_value=None,
    )


class RevokeForm(forms.Form):
    key = forms.CharField(max_length=25)


def first_problem(form: forms.Form) -> str:
    """The first thing that is wrong with a form, as a sentence that names its field."""
    problems: list[tuple[str, Any]] = list(form.errors.items())
    field, sentences = problems[0]
    return sentences[0] if field == "__all__" else f"{field.replace('_', ' ').capitalize()}: {sentences[0]}"
