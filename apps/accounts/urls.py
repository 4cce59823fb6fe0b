"""Mounted at /accounts/."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from apps.accounts import views

app_name = "accounts"
urlpatterns = [
    path("login/", views.SignIn.as_view(), name="sign_in"),
    path("logout/", LogoutView.as_view(), name="sign_out"),
    path("sign-up/", views.sign_up, name="sign_up"),
    path("join/<str:token>/", views.join, name="join"),
    path("password/", views.ChangePassword.as_view(), name="password"),
    path("settings/", views.settings_page, name="settings"),
    path("settings/profile/", views.update_profile, name="profile"),
    path("settings/organization/", views.rename_organization, name="organization"),
    path("settings/organizations/", views.found_organization, name="found_organization"),
    path("settings/organizations/choose/", views.choose_organization, name="choose_organization"),
    path("settings/members/<uuid:user_id>/role/", views.change_role, name="change_role"),
    path("settings/members/<uuid:user_id>/remove/", views.remove_member, name="remove_member"),
    path("settings/invitations/", views.invite, name="invite"),
    path("settings/invitations/withdraw/", views.withdraw_invitations, name="withdraw_invitations"),
    path("settings/keys/", views.create_key, name="create_key"),
    path("settings/keys/revoke/", views.revoke_key, name="revoke_key"),
]
