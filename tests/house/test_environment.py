"""The environment is read once, and a value that cannot be used is refused with its name."""

import os
import subprocess
import sys

from tests.houses import ROOT


def test_values_that_cannot_be_used_are_all_named_and_nothing_starts():
    wrong = {"NETRA_MAX_UPLOAD_BYTES": "abc", "NETRA_SECRET_KEY": "short-secret"}

    tried = subprocess.run(
        [sys.executable, ROOT / "manage.py", "check"], env=os.environ | wrong, capture_output=True, text=True
    )

    assert tried.returncode == 2
    assert "NETRA_MAX_UPLOAD_BYTES cannot be used" in tried.stderr
    assert "NETRA_SECRET_KEY cannot be used" in tried.stderr
    assert "short-secret" not in tried.stderr
    assert "Traceback" not in tried.stderr
