"""REST: send a message, answer what a run asks, stop a run."""

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import principal_of
from apps.conversations import services as conversations
from apps.conversations.serializers import MessageSerializer, RunSerializer
from apps.errors import Invalid
from apps.execution import services
from apps.execution.serializers import AnswerSerializer, SendMessageSerializer, StartedSerializer, TraceSerializer
from apps.execution.tracker import AgentExecutionTracker
from apps.operations.pagination import ByAge

KEY_LENGTH = 200  # characters


class MessagesView(GenericAPIView):  # type: ignore[type-arg]
    """The messages of a thread."""

    serializer_class = MessageSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="threads_messages_list")
    def get(self, request: Request, thread_id: UUID) -> Response:
        found = conversations.messages(principal=principal_of(request), thread_id=thread_id)
        page = self.paginate_queryset(found)
        return self.get_paginated_response(MessageSerializer(page, many=True).data)

    @extend_schema(
        operation_id="threads_messages_send",
        request=SendMessageSerializer,
        responses={202: StartedSerializer},
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)],
    )
    def post(self, request: Request, thread_id: UUID) -> Response:
        asked = SendMessageSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        started = services.start_run(
            principal=principal_of(request),
            thread_id=thread_id,
            key=_idempotency_key(request),
            **asked.validated_data,
        )
        location = {"Location": f"/api/runs/{started.run}/"}
        return Response(StartedSerializer(started).data, status=202, headers=location)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= KEY_LENGTH:
        raise Invalid(f"Idempotency-Key: use between 1 and {KEY_LENGTH} characters.")
    return key


class CancelRunView(GenericAPIView):  # type: ignore[type-arg]
    """Stop a run."""

    serializer_class = RunSerializer

    @extend_schema(request=None, responses={200: RunSerializer})
    def post(self, request: Request, run_id: UUID) -> Response:
        run = services.cancel_run(principal=principal_of(request), run_id=run_id)
        return Response(RunSerializer(run).data)


class AnswerRunView(GenericAPIView):  # type: ignore[type-arg]
    """Answer what a waiting run asks."""

    serializer_class = RunSerializer

    @extend_schema(request=AnswerSerializer, responses={200: RunSerializer})
    def post(self, request: Request, run_id: UUID) -> Response:
        said = AnswerSerializer(data=request.data)
        said.is_valid(raise_exception=True)
        run = services.answer_run(principal=principal_of(request), run_id=run_id, **said.validated_data)
        return Response(RunSerializer(run).data)


class TraceView(GenericAPIView):  # type: ignore[type-arg]
    """Where the time of a run went: its steps, model calls, tool calls and questions."""

    serializer_class = TraceSerializer

    def get(self, request: Request, run_id: UUID) -> Response:
        run = conversations.get_run(principal=principal_of(request), run_id=run_id)
        return Response(TraceSerializer(AgentExecutionTracker.trace(run)).data)
