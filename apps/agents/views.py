"""REST: who the agents are, what they can do, and what they reported."""

from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import principal_of
from apps.agents import services
from apps.agents.serializers import AgentSerializer, ReportSerializer, ToolSerializer
from apps.execution.registry import agents, tools


class AgentsView(GenericAPIView):  # type: ignore[type-arg]
    """Every agent."""

    serializer_class = AgentSerializer
    pagination_class = None
    filter_backends = []

    @extend_schema(responses=AgentSerializer(many=True), operation_id="agents_list")
    def get(self, request: Request) -> Response:
        return Response(AgentSerializer(list(agents), many=True).data)


class ToolsView(GenericAPIView):  # type: ignore[type-arg]
    """Every tool."""

    serializer_class = ToolSerializer
    pagination_class = None
    filter_backends = []

    @extend_schema(responses=ToolSerializer(many=True), operation_id="tools_list")
    def get(self, request: Request) -> Response:
        return Response(ToolSerializer(list(tools), many=True).data)


class ReportView(GenericAPIView):  # type: ignore[type-arg]
    """One report, as JSON."""

    serializer_class = ReportSerializer

    def get(self, request: Request, report_id: UUID) -> Response:
        report = services.get_report(principal=principal_of(request), report_id=report_id)
        return Response(services.as_document(report))


class ReportMarkdownView(GenericAPIView):  # type: ignore[type-arg]
    """One report, as Markdown."""

    serializer_class = ReportSerializer

    @extend_schema(responses={(200, "text/markdown"): OpenApiTypes.STR})
    def get(self, request: Request, report_id: UUID) -> HttpResponse:
        report = services.get_report(principal=principal_of(request), report_id=report_id)
        return HttpResponse(services.as_markdown(report), content_type="text/markdown; charset=utf-8")
