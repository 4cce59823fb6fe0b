"""Requests and answers about runs, over REST."""

from typing import Any

from rest_framework import serializers

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
