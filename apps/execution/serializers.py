"""Requests and answers about runs, over REST."""

from typing import Any

from rest_framework import serializers

from apps.execution.trace import Kind
from apps.realtime.schema import TEXT_LIMIT


class SendMessageSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=TEXT_LIMIT, trim_whitespace=False)
    dataset = serializers.UUIDField(required=False, allow_null=True, default=None)


class StartedSerializer(serializers.Serializer[Any]):
    message = serializers.UUIDField()
    run = serializers.UUIDField()


class AnswerSerializer(serializers.Serializer[Any]):
    call = serializers.CharField(max_length=100, required=False, allow_null=True, default=None)
    value = serializers.JSONField()


class SpanSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="16 hexadecimal digits.")
    parent = serializers.CharField(allow_null=True)  # type: ignore[assignment]  # as DRF calls something else
    kind = serializers.ChoiceField(choices=list(Kind))
    name = serializers.CharField()
    status = serializers.CharField()
    error = serializers.CharField(allow_null=True, help_text="A code, where it did not end well.")
    attempt = serializers.IntegerField(allow_null=True)
    start = serializers.DateTimeField(allow_null=True, help_text="Null where nobody wrote it down.")
    end = serializers.DateTimeField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True)
    first_seen = serializers.DateTimeField(allow_null=True, help_text="The start, else the first that was heard of it.")
    last_seen = serializers.DateTimeField(allow_null=True)
    attributes = serializers.DictField(help_text="Named as in OpenTelemetry's GenAI conventions.")


class TraceSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="32 hexadecimal digits: the run's id.")
    run = serializers.UUIDField()
    thread = serializers.UUIDField()
    status = serializers.CharField()
    queued_seconds = serializers.FloatField(allow_null=True, help_text="Until the run was first admitted.")
    waiting_seconds = serializers.FloatField(allow_null=True, help_text="For a person, a dependency or another worker.")
    working_seconds = serializers.FloatField(allow_null=True, help_text="While an attempt of a step was at it.")
    spans = SpanSerializer(many=True, help_text="Each after its parent; the first one is the run.")
