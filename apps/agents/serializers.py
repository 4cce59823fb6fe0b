"""Agents, tools and reports, as REST shows them."""

from typing import Any

from rest_framework import serializers


class AgentSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField()
    tools = serializers.ListField(child=serializers.CharField())


class ToolSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField()
    effect = serializers.CharField()
    role = serializers.CharField()
    deadline = serializers.FloatField(help_text="Seconds.")
    arguments = serializers.SerializerMethodField()

    def get_arguments(self, tool: Any) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return dict(tool.arguments.model_json_schema())


class ReportSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    title = serializers.CharField()
    summary = serializers.CharField(help_text="Markdown.")
    dataset = serializers.DictField(allow_null=True)
    findings = serializers.ListField(child=serializers.DictField())
    joint = serializers.DictField(allow_null=True, help_text="What the ways to save bring together.")
    tables = serializers.ListField(child=serializers.DictField())
    charts = serializers.ListField(child=serializers.DictField())
    missing = serializers.ListField(child=serializers.DictField())
    sources = serializers.ListField(child=serializers.DictField(), help_text="Tool calls, and the analyses they quote.")
    created_at = serializers.DateTimeField()
