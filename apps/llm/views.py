"""REST: which models there are and what they cost."""

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import principal_of
from apps.llm import ledger, services
from apps.llm.serializers import ModelSerializer, PriceChangeSerializer, UsageSerializer, model_row


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


class ByChange(LimitOffsetPagination):
    """Newest first. A price changes some times a year, so that a place seldom moves while somebody turns pages."""

    default_limit = 50
    max_limit = 200


class PriceChangesView(GenericAPIView):  # type: ignore[type-arg]
    """Who changed which own price, when and how."""

    serializer_class = PriceChangeSerializer
    pagination_class = ByChange
    filter_backends = []

    @extend_schema(operation_id="models_changes", responses=PriceChangeSerializer(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(services.price_changes(principal=principal_of(request)))
        rows = services.as_changes(page or [])
        return self.get_paginated_response(PriceChangeSerializer(rows, many=True).data)


class UsageView(GenericAPIView):  # type: ignore[type-arg]
    """What Netra's own agents have spent on models for the organization."""

    serializer_class = UsageSerializer

    def get(self, request: Request) -> Response:
        return Response(UsageSerializer(ledger.usage_of_organization(principal_of(request))).data)
