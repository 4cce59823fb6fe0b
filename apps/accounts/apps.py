import axes.apps
from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "apps.accounts"
    label = "accounts"


class SignInsConfig(axes.apps.AppConfig):  # type: ignore[misc]  # axes has no types
    """Axes, under the name that operators read."""

    default = False
    verbose_name = "Sign-ins"
