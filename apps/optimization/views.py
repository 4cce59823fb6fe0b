"""REST: datasets and where their money goes."""

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.authentication import ApiKeyAuthentication
from apps.accounts.permissions import principal_of
from apps.operations.pagination import ByAge
from apps.operations.parsers import UploadParser
from apps.optimization import advice, analyses, live, services, traces
from apps.optimization.datasets import DatasetNotReady
from apps.optimization.metrics import business_metrics
from apps.optimization.models import Dataset, Recommendation, StoredAnalysis
from apps.optimization.presentation import preview_document
from apps.optimization.reconciliation import Reconciliation
from apps.optimization.results import Breakdown, PricesInUse
from apps.optimization.serializers import (
    AlertsQuerySerializer,
    AnalysisRequestSerializer,
    AnalysisSerializer,
    AnalysisWithResultSerializer,
    BreakdownQuerySerializer,
    ChangesSerializer,
    DatasetSerializer,
    DatasetsQuerySerializer,
    DecisionSerializer,
    OutcomeSerializer,
    PriceAlertSerializer,
    RecommendationQuerySerializer,
    RecommendationSerializer,
    ReconciliationQuerySerializer,
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

    @extend_schema(operation_id="datasets_list", parameters=[DatasetsQuerySerializer])
    def get(self, request: Request) -> Response:
        asked = DatasetsQuerySerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        page = self.paginate_queryset(
            services.list_datasets(principal=principal_of(request), kind=asked.validated_data["kind"])
        )
        return self.get_paginated_response(DatasetSerializer(page or [], many=True).data)  # type: ignore[arg-type]

    @extend_schema(request=UploadSerializer, responses={200: DatasetSerializer, 202: QUEUED})
    def post(self, request: Request) -> Response:
        asked = UploadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        upload = asked.validated_data.pop("file")
        dataset = services.create_dataset(principal=principal_of(request), upload=upload, **asked.validated_data)
        return _answer(dataset)


class PreviewView(GenericAPIView):  # type: ignore[type-arg]
    """How a file would be read, told from its beginning (a client may send that alone); nothing of it is kept."""

    serializer_class = UploadSerializer
    parser_classes = [UploadParser]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        refuse_beyond_limit(int(request.META.get("CONTENT_LENGTH") or 0) - FORM_BYTES)
        super().initial(request, *args, **kwargs)

    @extend_schema(request=UploadSerializer, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request) -> Response:
        asked = UploadSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        found = services.preview_upload(
            principal=principal_of(request),
            upload=wanted["file"],
            mapping=wanted.get("mapping"),
            price_as=wanted.get("price_as", ""),
        )
        return Response(preview_document(found))


class DatasetView(GenericAPIView):  # type: ignore[type-arg]
    """One dataset."""

    serializer_class = DatasetSerializer

    def get(self, request: Request, dataset_id: UUID) -> Response:
        dataset = services.get_dataset(principal=principal_of(request), dataset_id=dataset_id)
        return Response(DatasetSerializer(dataset).data)

    @extend_schema(request=ChangesSerializer)
    def patch(self, request: Request, dataset_id: UUID) -> Response:
        asked = ChangesSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        changed = services.change_dataset(
            principal=principal_of(request), dataset_id=dataset_id, **asked.validated_data
        )
        return Response(DatasetSerializer(changed).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, dataset_id: UUID) -> Response:
        services.delete_dataset(principal=principal_of(request), dataset_id=dataset_id)
        return Response(status=204)


class FilesView(GenericAPIView):  # type: ignore[type-arg]
    """The later files of one dataset. Upload one with `continues`."""

    serializer_class = DatasetSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="dataset_files_list")
    def get(self, request: Request, dataset_id: UUID) -> Response:
        found = services.later_files(principal=principal_of(request), dataset_id=dataset_id)
        page = self.paginate_queryset(found)
        return self.get_paginated_response(DatasetSerializer(page or [], many=True).data)  # type: ignore[arg-type]


class CancelImportView(GenericAPIView):  # type: ignore[type-arg]
    """Stop an import; its upload is kept."""

    serializer_class = DatasetSerializer

    @extend_schema(request=None)
    def post(self, request: Request, dataset_id: UUID) -> Response:
        return _answer(services.cancel_import(principal=principal_of(request), dataset_id=dataset_id))


class ResumeImportView(GenericAPIView):  # type: ignore[type-arg]
    """Go on with a cancelled import."""

    serializer_class = DatasetSerializer

    @extend_schema(request=None)
    def post(self, request: Request, dataset_id: UUID) -> Response:
        return _answer(services.resume_import(principal=principal_of(request), dataset_id=dataset_id))


class SufficiencyView(GenericAPIView):  # type: ignore[type-arg]
    """How far a dataset carries each analysis, and what is missing."""

    serializer_class = DatasetSerializer

    @extend_schema(responses={200: OpenApiTypes.OBJECT, 202: QUEUED})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        principal = principal_of(request)
        try:
            found = services.sufficiency_of(principal=principal, dataset_id=dataset_id)
        except DatasetNotReady:
            return _answer(services.get_dataset(principal=principal, dataset_id=dataset_id))
        return Response({name: each.model_dump(mode="json") for name, each in found.items()})


class ReconciliationView(GenericAPIView):  # type: ignore[type-arg]
    """A dataset's calls beside a bill: what of it they explain, and why the rest differs."""

    serializer_class = ReconciliationQuerySerializer

    @extend_schema(parameters=[ReconciliationQuerySerializer], responses={200: Reconciliation})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        principal = principal_of(request)
        services.get_dataset(principal=principal, dataset_id=dataset_id)  # a stranger learns nothing of the question
        asked = ReconciliationQuerySerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        bill = asked.validated_data["bill"]
        found = services.reconciliation(principal=principal, dataset_id=dataset_id, bill_id=bill)
        return Response(found.model_dump(mode="json"))


class TracesView(APIView):
    """OTLP over HTTP: where an OpenTelemetry exporter sends spans, with an API key. Answers as the protocol says."""

    authentication_classes = [ApiKeyAuthentication]
    schema = None

    def post(self, request: Request) -> HttpResponse:
        kind = traces.format_of(request.META.get("CONTENT_TYPE", ""))
        traces.refuse_large(int(request.META.get("CONTENT_LENGTH") or 0))
        # Read past Django's own bound on bodies; ours holds also where no length is announced.
        body = request._request.read(traces.MOST_BYTES + 1)
        with traces.traces_in(traces.plain(body, request.META.get("HTTP_CONTENT_ENCODING", "")), kind) as found:
            if found.has_calls:
                organization = principal_of(request).organization_id
                live.keep(organization_id=organization, document=found.document, now=timezone.now())
            return HttpResponse(traces.accepted(found, kind), content_type=kind)

    def handle_exception(self, exc: Exception) -> HttpResponse:  # type: ignore[override]  # not rendered by REST
        answer = super().handle_exception(exc)
        asked = self.request.META.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        kind = traces.PROTOBUF if asked == traces.PROTOBUF else traces.JSON
        detail = str((answer.data or {}).get("detail", ""))
        headers = {name: value for name, value in answer.items() if name.lower() != "content-type"}
        return HttpResponse(traces.refused(detail, kind), status=answer.status_code, content_type=kind, headers=headers)


class SavingsView(GenericAPIView):  # type: ignore[type-arg]
    """What each way to save would have saved on a dataset, and all of them together; 202 until it is computed.

    GET answers what there is, and starts nothing; POST has it computed on the calls, prices and rules of now.
    """

    serializer_class = DatasetSerializer

    @extend_schema(responses={200: OpenApiTypes.OBJECT, 202: AnalysisSerializer})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        principal = principal_of(request)
        try:
            analysis = advice.found_savings(principal=principal, dataset_id=dataset_id)
        except DatasetNotReady:
            return _answer(services.get_dataset(principal=principal, dataset_id=dataset_id))
        if analysis is None:
            raise advice.AnalysisNotFound("Nothing was computed on this dataset yet. POST here, and a worker will.")
        return _savings(analysis)

    @extend_schema(request=None, responses={200: OpenApiTypes.OBJECT, 202: AnalysisSerializer})
    def post(self, request: Request, dataset_id: UUID) -> Response:
        return _savings(advice.request_analysis(principal=principal_of(request), dataset_id=dataset_id))


def _savings(analysis: StoredAnalysis) -> Response:
    """The savings that were found, and whether the dataset, the prices and the code are still the same."""
    if analysis.state != StoredAnalysis.State.READY:
        return _told(analysis)
    parts = ("cost_usd", "unpriced_share", "strategies", "joint", "if_allowed", "anomalies", "forecast")
    result = analysis.result or {}
    about = {"analysis": str(analysis.pk), "current": analyses.is_current(analysis)}
    return Response(about | {name: result.get(name) for name in parts})


def _told(analysis: StoredAnalysis) -> Response:
    """The analysis: 202 while it is being computed, and always where to look again."""
    over = analysis.state not in (StoredAnalysis.State.QUEUED, StoredAnalysis.State.RUNNING)
    return Response(
        AnalysisWithResultSerializer(analysis).data,
        status=200 if over else 202,
        headers={"Location": reverse("api_analysis", args=[analysis.pk])},
    )


class AnalysesView(GenericAPIView):  # type: ignore[type-arg]
    """What was computed for the organization, and what shall be."""

    serializer_class = AnalysisSerializer
    pagination_class = ByAge

    @extend_schema(operation_id="analyses_list")
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(advice.list_analyses(principal=principal_of(request)))
        return self.get_paginated_response(AnalysisSerializer(page or [], many=True).data)  # type: ignore[arg-type]

    @extend_schema(
        request=AnalysisRequestSerializer, responses={200: AnalysisWithResultSerializer, 202: AnalysisSerializer}
    )
    def post(self, request: Request) -> Response:
        asked = AnalysisRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        wanted = asked.validated_data
        return _told(
            advice.request_analysis(
                principal=principal_of(request),
                dataset_id=wanted["dataset"],
                kind=wanted["kind"],
                parameters=wanted["parameters"],
            )
        )


class AnalysisView(GenericAPIView):  # type: ignore[type-arg]
    """One analysis with its result, and everything it was computed from."""

    serializer_class = AnalysisWithResultSerializer

    def get(self, request: Request, analysis_id: UUID) -> Response:
        return _told(advice.get_analysis(principal=principal_of(request), analysis_id=analysis_id))


class AnalysisAgainView(GenericAPIView):  # type: ignore[type-arg]
    """The same computation on what the dataset, the prices and the code are now."""

    serializer_class = AnalysisWithResultSerializer

    @extend_schema(request=None)
    def post(self, request: Request, analysis_id: UUID) -> Response:
        return _told(advice.compute_again(principal=principal_of(request), analysis_id=analysis_id))


class CancelAnalysisView(GenericAPIView):  # type: ignore[type-arg]
    """Stop an analysis under way."""

    serializer_class = AnalysisSerializer

    @extend_schema(request=None)
    def post(self, request: Request, analysis_id: UUID) -> Response:
        return _told(advice.cancel_analysis(principal=principal_of(request), analysis_id=analysis_id))


class MetricsView(GenericAPIView):  # type: ignore[type-arg]
    """Whether Netra is of use to the organization, in groups of measures."""

    serializer_class = DecisionSerializer

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        found = business_metrics(organization_id=principal_of(request).organization_id)
        return Response({"business": found.model_dump(mode="json")})


class RecommendationsView(GenericAPIView):  # type: ignore[type-arg]
    """What to do, the most dollars per day of effort first."""

    serializer_class = RecommendationSerializer
    queryset = Recommendation.objects.none()  # for the schema; the services ask

    @extend_schema(
        operation_id="recommendations_list",
        parameters=[RecommendationQuerySerializer],
        responses=RecommendationSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        asked = RecommendationQuerySerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        found = advice.list_recommendations(
            principal=principal_of(request),
            dataset_id=asked.validated_data.get("dataset"),
            state=asked.validated_data.get("state", ""),
        )
        return Response(RecommendationSerializer(found, many=True).data)


class RecommendationView(GenericAPIView):  # type: ignore[type-arg]
    """One recommendation."""

    serializer_class = RecommendationSerializer

    def get(self, request: Request, recommendation_id: UUID) -> Response:
        found = advice.get_recommendation(principal=principal_of(request), recommendation_id=recommendation_id)
        return Response(RecommendationSerializer(found).data)


class OutcomeView(GenericAPIView):  # type: ignore[type-arg]
    """Whether a recommendation was adopted, and what it did on the calls since."""

    serializer_class = DecisionSerializer

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, recommendation_id: UUID) -> Response:
        found = advice.get_recommendation(principal=principal_of(request), recommendation_id=recommendation_id)
        return Response(_outcome(found))

    @extend_schema(request=DecisionSerializer, responses=OpenApiTypes.OBJECT)
    def post(self, request: Request, recommendation_id: UUID) -> Response:
        asked = DecisionSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        found = advice.decide(
            principal=principal_of(request), recommendation_id=recommendation_id, **asked.validated_data
        )
        return Response(_outcome(found))


def _outcome(recommendation: Recommendation) -> dict[str, Any]:
    measured = recommendation.outcomes.order_by("to_at")
    return {
        "recommendation": RecommendationSerializer(recommendation).data,
        "outcomes": OutcomeSerializer(measured, many=True).data,
    }


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
        except DatasetNotReady:
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
        except DatasetNotReady:
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
