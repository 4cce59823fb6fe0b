"""`manage.py check_config`: what is configured, and what is dangerous about it."""

from typing import Any

from django.conf import settings
from django.core import checks

from apps.operations.commands import NetraCommand

# Django's four warnings about a site without TLS; netra.W001 says it once, and only where others can reach the site.
SAID_BY_W001 = {"security.W004", "security.W008", "security.W012", "security.W016"}


class Command(NetraCommand):
    help = "Show every variable (secrets masked) and every deployment check that does not hold."
    needs_house = False

    def run(self, **options: Any) -> bool:
        findings = [
            found for found in checks.run_checks(include_deployment_checks=True) if found.id not in SAID_BY_W001
        ]
        self.tell({"variables": settings.CONFIGURATION, "findings": [_as_json(finding) for finding in findings]})
        for variable in settings.CONFIGURATION:
            self.say(f"{variable['name']}={variable['value']}")
        for finding in findings:
            self.say(f"{finding.id} {finding.msg}\n    -> {finding.hint or 'no hint'}")
        serious = [finding for finding in findings if finding.is_serious(checks.ERROR)]
        self.say(f"{len(findings)} findings, {len(serious)} of them errors.")
        return not serious


def _as_json(finding: checks.CheckMessage) -> dict[str, Any]:
    level = "error" if finding.is_serious(checks.ERROR) else "warning"
    return {"id": finding.id, "level": level, "message": finding.msg, "hint": finding.hint}
