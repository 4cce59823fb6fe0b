"""Health, for people, load balancers and `manage.py start`."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.operations.dependencies import DEPENDENCIES, examine, is_ready


@never_cache
@require_safe
def livez(request: HttpRequest) -> JsonResponse:
    """This process answers; nothing else is asked."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Whether this process can serve requests: 200, or 503 with the names of what is missing."""
    findings = examine(dependency for dependency in DEPENDENCIES if dependency.required)
    missing = [finding.name for finding in findings if not finding.ok]
    return JsonResponse({"status": "unready" if missing else "ok", "missing": missing}, status=503 if missing else 200)


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Every dependency: `ok`, `degraded` when something optional is missing, 503 `failed` when something required is.

    Only operators see details and remedies, which may name hosts and versions.
    """
    findings = examine()
    # Who asks is a question to the database, too.
    in_full = all(finding.ok for finding in findings if finding.name == "postgresql") and request.user.is_staff
    shown = [f.as_json() if in_full else {"name": f.name, "ok": f.ok, "seconds": f.seconds} for f in findings]
    status = "failed" if not is_ready(findings) else "ok" if all(f.ok for f in findings) else "degraded"
    return JsonResponse({"status": status, "dependencies": shown}, status=503 if status == "failed" else 200)
