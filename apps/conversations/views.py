"""REST: threads, their events (JSON or a stream), and runs."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import holder_of, principal_of
from apps.accounts.tenancy import principal_now
from apps.conversations import services
from apps.conversations.serializers import (
    EventsSerializer,
    RunSerializer,
    ThreadChangeSerializer,
    ThreadSerializer,
)
from apps.conversations.source import JournalSource
from apps.errors import Forbidden, Invalid
from apps.operations.pagination import ByAge
from apps.realtime.stream import event_stream, require_room

AT_ONCE = 500  # events per answer


class ThreadsView(GenericAPIView):  # type: ignore[type-arg]
    """The caller's threads."""

    serializer_class = ThreadSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="threads_list", parameters=[OpenApiParameter("archived", bool)])
    def get(self, request: Request) -> Response:
        archived = request.query_params.get("archived") == "true"
        page = self.paginate_queryset(services.threads(principal=principal_of(request), archived=archived))
        return self.get_paginated_response(ThreadSerializer(page, many=True).data)

    @extend_schema(responses={201: ThreadSerializer})
    def post(self, request: Request) -> Response:
        asked = ThreadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        thread = services.create_thread(principal=principal_of(request), **asked.validated_data)
        return Response(ThreadSerializer(thread).data, status=201)


class ThreadView(GenericAPIView):  # type: ignore[type-arg]
    """One thread."""

    serializer_class = ThreadSerializer

    def get(self, request: Request, thread_id: UUID) -> Response:
        thread = services.get_thread(principal=principal_of(request), thread_id=thread_id)
        return Response(ThreadSerializer(thread).data)

    @extend_schema(request=ThreadChangeSerializer)
    def patch(self, request: Request, thread_id: UUID) -> Response:
        asked = ThreadChangeSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        thread = services.change_thread(principal=principal_of(request), thread_id=thread_id, **asked.validated_data)
        return Response(ThreadSerializer(thread).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, thread_id: UUID) -> Response:
        services.delete_thread(principal=principal_of(request), thread_id=thread_id)
        return Response(status=204)


class EventStreamRenderer(BaseRenderer):
    """Lets a client ask for `text/event-stream`; the view streams past it."""

    media_type = "text/event-stream"
    format = "sse"

    def render(self, data: Any, *_: Any, **__: Any) -> bytes:
        """A refusal, as JSON."""
        return JSONRenderer().render(data)


class EventsView(GenericAPIView):  # type: ignore[type-arg]
    """The events of a thread above `after`, as JSON or, where asked, as a stream that goes on."""

    serializer_class = EventsSerializer
    renderer_classes = [JSONRenderer, EventStreamRenderer]

    @extend_schema(
        parameters=[
            OpenApiParameter("after", int, description="The last number already known; 0 from the start."),
            OpenApiParameter("Last-Event-ID", int, OpenApiParameter.HEADER),
        ]
    )
    def get(self, request: Request, thread_id: UUID) -> HttpResponseBase:
        source = JournalSource()
        principal = principal_of(request)
        last_seq = source.authorize(principal, thread_id)
        after = _after(request)
        if isinstance(request.accepted_renderer, EventStreamRenderer):
            require_room(principal.user_id)
            recheck = _recheck(request, source, thread_id)
            stream = event_stream(source, thread_id, user=principal.user_id, after=after, recheck=recheck)
            return StreamingHttpResponse(
                stream,
                content_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        events = source.read(thread_id, after, AT_ONCE)
        known = events[-1]["seq"] if events else after
        return Response({"events": events, "last_seq": max(last_seq, known), "more": known < last_seq})


def _recheck(request: Request, source: JournalSource, thread_id: UUID) -> Callable[[], object]:
    """Raises a NetraError once whoever made `request` has signed out or lost the right to read the thread."""
    holder, session = holder_of(request), request.session

    def recheck() -> None:
        principal = principal_now(holder)
        signed_out = holder.key is None and not session.exists(session.session_key or "")
        if principal is None or signed_out:
            raise Forbidden("Signed out.")
        source.authorize(principal, thread_id)

    return recheck


def _after(request: Request) -> int:
    given = request.headers.get("Last-Event-ID") or request.query_params.get("after") or "0"
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise Invalid(f"after: give a whole number of at least 0, not {given[:40]!r}.")
    return int(given)


class RunsView(GenericAPIView):  # type: ignore[type-arg]
    """The caller's runs, newest first."""

    serializer_class = RunSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="runs_list")
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(services.runs(principal=principal_of(request)))
        return self.get_paginated_response(RunSerializer(page, many=True).data)


class RunView(GenericAPIView):  # type: ignore[type-arg]
    """One run."""

    serializer_class = RunSerializer

    def get(self, request: Request, run_id: UUID) -> Response:
        run = services.get_run(principal=principal_of(request), run_id=run_id)
        return Response(RunSerializer(run).data)
