"""What is configured, in words."""

from urllib.parse import urlsplit

from django.conf import settings


def is_set(variable: str) -> bool:
    """Whether the environment (or `.env`) sets this variable, as opposed to its default."""
    values = {entry["name"]: entry["value"] for entry in settings.CONFIGURATION}
    return values[variable] != "None"


def what_leaves_the_machine() -> str:
    """Which data goes where, in a sentence or two, for the terminal and for the pages."""
    said = _what_goes_to_the_model()
    if settings.OTLP_ENDPOINT:
        said += f" To the collector at {settings.OTLP_ENDPOINT} go names, times, tokens and costs of finished runs."
    return said


def _what_goes_to_the_model() -> str:
    if settings.LLM_BASE_URL is None:
        return "Nothing leaves this machine: no model is configured, so the agents plan offline."
    where = f"{settings.LLM_MODEL} at {settings.LLM_BASE_URL}"
    if urlsplit(settings.LLM_BASE_URL).hostname in ("localhost", "127.0.0.1", "::1"):
        return f"Nothing leaves this machine: the agents ask {where}, which runs on it."
    return (
        f"To {where} go what is typed in chats, and what the agents' tools answer: totals, and names of models and "
        "features. The prompts and answers of imported calls stay here."
    )
