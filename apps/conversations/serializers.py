"""Threads, messages and runs, as REST shows them."""

from typing import Any

from rest_framework import serializers

from apps.conversations.models import Message, Run


class ThreadSerializer(serializers.Serializer[Any]):
    # Declared one by one: a ModelSerializer would derive them from the model anew for each request.
    id = serializers.UUIDField(read_only=True)
    title = serializers.CharField(max_length=200, required=False, allow_blank=True)
    created_at = serializers.DateTimeField(read_only=True)
    updated_at = serializers.DateTimeField(read_only=True)
    archived_at = serializers.DateTimeField(read_only=True, allow_null=True)
    last_seq = serializers.IntegerField(read_only=True)
    live_run = serializers.UUIDField(read_only=True, allow_null=True)


class ThreadChangeSerializer(serializers.Serializer[Any]):
    title = serializers.CharField(max_length=200, required=False)
    archived = serializers.BooleanField(required=False)


class MessageSerializer(serializers.ModelSerializer[Message]):
    class Meta:
        model = Message
        fields = ["id", "thread", "run", "role", "text", "report", "created_at"]


class RunSerializer(serializers.ModelSerializer[Run]):
    class Meta:
        model = Run
        fields = [
            "id",
            "thread",
            "state",
            "workflow",
            "goal",
            "dataset",
            "created_at",
            "started_at",
            "finished_at",
            "usage",
            "error_code",
            "error_detail",
            "support_id",
        ]


class EventSerializer(serializers.Serializer[Any]):
    """The envelope of the event contract; `data` depends on `type`."""

    type = serializers.CharField()
    thread = serializers.UUIDField()
    run = serializers.UUIDField()
    seq = serializers.IntegerField()
    at = serializers.DateTimeField()
    step = serializers.CharField(required=False)
    attempt = serializers.IntegerField(required=False)
    data = serializers.DictField()  # type: ignore[assignment]  # the contract's name, which DRF uses too


class EventsSerializer(serializers.Serializer[Any]):
    events = EventSerializer(many=True)
    last_seq = serializers.IntegerField()
    more = serializers.BooleanField()
