from tests.accounts.conftest import quick_passwords  # noqa: F401  # for these tests too
