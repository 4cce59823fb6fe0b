"""A live run, an endpoint that answers what it is told to, and a tool."""

import pytest
from pydantic import BaseModel
from uuid6 import uuid7

from apps.conversations import services as conversations
from apps.execution import admission, claims, registry
from apps.execution import services as execution
from apps.execution.dispatcher import RequestScopedToolDispatcher
from apps.execution.scope import StepScope
from tests.agents.model_server import model_server


class Note(BaseModel):
    text: str


class Endpoint:
    """A model that answers what it is told to, one question after the other, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, body):
        self.asked.append(body["messages"])
        answer = self.answers.pop(0)
        return answer() if callable(answer) else answer


@pytest.fixture
def serve(settings):
    """Make an endpoint the configured one while a test runs."""
    with_server = []

    def start(*answers):
        endpoint = Endpoint(*answers)
        server = model_server(endpoint)
        settings.LLM_BASE_URL, settings.LLM_MODEL = server.__enter__(), "gpt-4o-mini"
        with_server.append(server)
        return endpoint

    yield start
    for server in with_server:
        server.__exit__(None, None, None)


@pytest.fixture
def run(as_principal, alice, monkeypatch):
    """A live run whose first step is ready."""
    monkeypatch.setattr("apps.execution.doorbell._ring", lambda run: None)
    principal = as_principal(alice)
    thread = conversations.create_thread(principal=principal)
    started = execution.start_run(principal=principal, thread_id=thread.pk, text="Where can I save?")
    assert admission.admit_one() == started.run
    return started.run


@pytest.fixture
def shout(monkeypatch):
    """A tool; answers what it was called with so far."""
    heard = []

    async def run(context, arguments):
        heard.append(arguments.text)
        return Note(text=arguments.text.upper())

    tool = registry.Tool(name="shout", description="", arguments=Note, run=run, summarize=lambda note: note.text)
    monkeypatch.setattr(registry.tools, "_items", {"shout": tool})
    return heard


def claim(run):
    claimed = claims.claim_step(run, worker=uuid7())
    assert claimed is not None
    allowed = {tool.name: tool for tool in registry.tools}
    return StepScope(claimed.context, {}, RequestScopedToolDispatcher(claimed.context, allowed))
