"""A house as it is, but for the hash of passwords, which is slow on purpose: how slow is not what tests are about."""

from netra.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
