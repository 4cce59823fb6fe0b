"""`manage.py doctor`: what Netra depends on, whether it is there, and what to do if not."""

from collections.abc import Sequence
from typing import Any

from apps.operations.commands import NetraCommand
from apps.operations.dependencies import Finding, examine


class Command(NetraCommand):
    help = "Probe every outside service, and name the remedy for each that is missing."

    def run(self, **options: Any) -> bool:
        findings = examine()
        holds = all(finding.ok for finding in findings)
        self.tell({"ok": holds, "dependencies": [finding.as_json() for finding in findings]})
        for line in tree(findings):
            self.say(line)
        return holds


def tree(findings: Sequence[Finding], needs: str | None = None, depth: int = 0) -> list[str]:
    """One line per finding below what it needs, and one with the remedy where something is wrong."""
    lines = []
    for finding in findings:
        if finding.needs == needs:
            indent = "   " * depth
            lines.append(f"{indent}{'ok     ' if finding.ok else 'MISSING'} {finding.name}: {finding.detail}")
            lines += [f"{indent}        -> {finding.remedy}"] if finding.remedy else []
            lines += tree(findings, finding.name, depth + 1)
    return lines
