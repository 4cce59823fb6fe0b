from django.contrib import admin

from apps.agents.models import Report
from apps.operations.read_only import ReadOnlyAdmin


@admin.register(Report)
class ReportAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "organization", "created_at"]
    search_fields = ["id", "run"]
    date_hierarchy = "created_at"
