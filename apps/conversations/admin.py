"""The operators' view of threads; what was said is shown, never edited."""

from django.contrib import admin

from apps.conversations.models import Message, Thread
from apps.operations.read_only import ReadOnlyAdmin, ReadOnlyInline


class MessageInline(ReadOnlyInline):
    model = Message
    fields = ["role", "text", "created_at"]
    readonly_fields = fields
    ordering = ["id"]
    hide_title = True


@admin.register(Thread)
class ThreadAdmin(ReadOnlyAdmin):
    list_display = ["title", "organization", "user", "last_seq", "updated_at", "archived_at"]
    search_fields = ["id", "title", "user__email"]
    list_select_related = ["organization", "user"]
    date_hierarchy = "created_at"
    inlines = [MessageInline]
