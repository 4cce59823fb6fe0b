"""Threads, messages and runs, as REST shows them."""

from typing import Any

from rest_framework import serializers

from apps.conversations.models import Message, Run, Thread


class ThreadSerializer(serializers.ModelSerializer[Thread]):
    class Meta:
        model = Thread
        fields = ["id", "title", "created_at", "updated_at", "archived_at", "last_seq", "live_run"]
        read_only_fields = ["id", "created_at", "updated_at", "archived_at", "last_seq", "live_run"]


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
