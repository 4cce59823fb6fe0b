"""Pages that stay stable while rows are added."""

from rest_framework.pagination import CursorPagination


class ByAge(CursorPagination):
    """Newest first; ids are UUIDv7, so their order is that of creation."""

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200
    ordering = "-id"
