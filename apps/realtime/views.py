"""REST: a ticket for a socket."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import holder_of
from apps.realtime import tickets


class TicketSerializer(serializers.Serializer[Any]):
    ticket = serializers.CharField(source="value")
    expires_in = serializers.IntegerField(help_text="Seconds.")


class TicketView(GenericAPIView):  # type: ignore[type-arg]
    """A single-use ticket for the first frame of a socket: `{"type": "hello", "ticket": "..."}`."""

    serializer_class = TicketSerializer

    @extend_schema(request=None, responses={201: TicketSerializer})
    def post(self, request: Request) -> Response:
        return Response(TicketSerializer(tickets.issue(holder_of(request))).data, status=201)
