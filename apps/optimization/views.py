"""REST: datasets and where their money goes."""

from typing import Any
from uuid import UUID

from django.urls import reverse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import principal_of
from apps.operations.pagination import ByAge
from apps.operations.parsers import UploadParser
from apps.optimization import services
from apps.optimization.models import Dataset
from apps.optimization.results import Breakdown, PricesInUse
from apps.optimization.serializers import (
    AlertsQuerySerializer,
    BreakdownQuerySerializer,
    DatasetSerializer,
    PriceAlertSerializer,
    UploadSerializer,
)
from apps.optimization.storage import refuse_beyond_limit

FORM_BYTES = 16 * 1024  # of a multipart body beside the file
QUEUED = OpenApiResponse(DatasetSerializer, description="Still being imported; look again at `Location`.")


def _answer(dataset: Dataset) -> Response:
    """The dataset: 202 while it is being imported, and always where to look again."""
    ready = dataset.state not in (Dataset.State.QUEUED, Dataset.State.IMPORTING)
    return Response(
        DatasetSerializer(dataset).data,
        status=200 if ready else 202,
        headers={"Location": reverse("api_dataset", args=[dataset.pk])},
    )


class DatasetsView(GenericAPIView):  # type: ignore[type-arg]
    """The organization's datasets."""

    serializer_class = DatasetSerializer
    pagination_class = ByAge
    parser_classes = [UploadParser]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        # Before anything looks at the body: even the check against forged requests would read all of it.
        refuse_beyond_limit(int(request.META.get("CONTENT_LENGTH") or 0) - FORM_BYTES)
        super().initial(request, *args, **kwargs)

    @extend_schema(operation_id="datasets_list")
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(services.list_datasets(principal=principal_of(request)))
        return self.get_paginated_response(DatasetSerializer(page or [], many=True).data)  # type: ignore[arg-type]

    @extend_schema(request=UploadSerializer, responses={200: DatasetSerializer, 202: QUEUED})
    def post(self, request: Request) -> Response:
        asked = UploadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        upload = asked.validated_data.pop("file")
        dataset = services.create_dataset(principal=principal_of(request), upload=upload, **asked.validated_data)
        return _answer(dataset)


class DatasetView(GenericAPIView):  # type: ignore[type-arg]
    """One dataset."""

    serializer_class = DatasetSerializer

    def get(self, request: Request, dataset_id: UUID) -> Response:
        dataset = services.get_dataset(principal=principal_of(request), dataset_id=dataset_id)
        return Response(DatasetSerializer(dataset).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, dataset_id: UUID) -> Response:
        services.delete_dataset(principal=principal_of(request), dataset_id=dataset_id)
        return Response(status=204)


class _AnalysisView(GenericAPIView):  # type: ignore[type-arg]
    """Part of the whole analysis of one dataset; 202 while it is being imported."""

    serializer_class = DatasetSerializer
    parts: tuple[str, ...]

    def get(self, request: Request, dataset_id: UUID) -> Response:
        principal = principal_of(request)
        try:
            found = services.analysis(principal=principal, dataset_id=dataset_id)
        except services.DatasetNotReady:
            return _answer(services.get_dataset(principal=principal, dataset_id=dataset_id))
        document = found.model_dump(mode="json", include=set(self.parts))
        return Response(document[self.parts[0]] if len(self.parts) == 1 else document)


class SufficiencyView(_AnalysisView):
    """How far a dataset carries each analysis, and what is missing."""

    parts = ("sufficiency",)

    @extend_schema(responses={200: OpenApiTypes.OBJECT, 202: QUEUED})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        return super().get(request, dataset_id)


class SavingsView(_AnalysisView):
    """What each way to save would have saved on a dataset. They overlap; `joint` is null until it is computed."""

    parts = ("cost_usd", "strategies", "joint")

    @extend_schema(responses={200: OpenApiTypes.OBJECT, 202: QUEUED})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        return super().get(request, dataset_id)


class BreakdownView(GenericAPIView):  # type: ignore[type-arg]
    """Where a dataset's money goes."""

    serializer_class = BreakdownQuerySerializer

    @extend_schema(parameters=[BreakdownQuerySerializer], responses={200: Breakdown, 202: QUEUED})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        asked = BreakdownQuerySerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        principal = principal_of(request)
        try:
            found = services.breakdown(principal=principal, dataset_id=dataset_id, **asked.validated_data)
        except services.DatasetNotReady:
            return _answer(services.get_dataset(principal=principal, dataset_id=dataset_id))
        return Response(found.model_dump(mode="json"))


class PricesView(GenericAPIView):  # type: ignore[type-arg]
    """What a dataset's calls pay, where each price is from, and how much of the spend rests on assumed ones."""

    serializer_class = DatasetSerializer

    @extend_schema(responses={200: PricesInUse, 202: QUEUED})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        principal = principal_of(request)
        try:
            found = services.prices(principal=principal, dataset_id=dataset_id)
        except services.DatasetNotReady:
            return _answer(services.get_dataset(principal=principal, dataset_id=dataset_id))
        return Response(found.model_dump(mode="json"))


class PriceAlertsView(GenericAPIView):  # type: ignore[type-arg]
    """Prices in use that have changed."""

    serializer_class = PriceAlertSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="models_alerts", parameters=[AlertsQuerySerializer])
    def get(self, request: Request) -> Response:
        asked = AlertsQuerySerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        found = services.price_alerts(principal=principal_of(request), **asked.validated_data)
        page = self.paginate_queryset(found)
        return self.get_paginated_response(PriceAlertSerializer(page or [], many=True).data)


class DismissAlertView(GenericAPIView):  # type: ignore[type-arg]
    """Take note of an alert."""

    serializer_class = PriceAlertSerializer

    @extend_schema(request=None)
    def post(self, request: Request, alert_id: UUID) -> Response:
        alert = services.dismiss_alert(principal=principal_of(request), alert_id=alert_id, now=timezone.now())
        return Response(PriceAlertSerializer(alert).data)
