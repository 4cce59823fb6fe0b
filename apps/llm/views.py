"""REST: which models there are and what they cost."""

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import principal_of
from apps.llm import ledger, services
from apps.llm.serializers import ModelSerializer, UsageSerializer, model_row


class ByPlace(LimitOffsetPagination):
    """The catalogue is a list in memory that does not change between two pages, so places in it are stable."""

    default_limit = 50
    max_limit = 500


class ModelsView(GenericAPIView):  # type: ignore[type-arg]
    """Models with today's prices and where each price is from."""

    serializer_class = ModelSerializer
    pagination_class = ByPlace
    filter_backends = []

    @extend_schema(
        operation_id="models_list",
        parameters=[OpenApiParameter("search", str), OpenApiParameter("provider", str)],
        responses=ModelSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "") for name in ("search", "provider")}
        found = services.models(principal=principal_of(request), now=timezone.now(), **asked)
        page = self.paginate_queryset(found)
        return self.get_paginated_response(ModelSerializer([model_row(entry) for entry in page or []], many=True).data)


class UsageView(GenericAPIView):  # type: ignore[type-arg]
    """What Netra's own agents have spent on models for the organization."""

    serializer_class = UsageSerializer

    def get(self, request: Request) -> Response:
        return Response(UsageSerializer(ledger.usage_of_organization(principal_of(request))).data)
