"""What is written about the configuration agrees with the code, and what is dangerous is named."""

import json
import os
import re
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command

from apps.operations import checks
from apps.operations.address import Address
from apps.operations.configuration import what_leaves_the_machine
from apps.operations.dependencies import WORKERS
from apps.operations.startup import background_commands, web_command
from tests.operations.houses import ROOT


def test_the_example_names_every_variable_and_no_other(settings):
    example = (ROOT / ".env.example").read_text()

    named = re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE)

    assert sorted(named) == sorted(variable["name"] for variable in settings.CONFIGURATION)


def test_without_a_model_nothing_leaves_the_machine(settings):
    settings.LLM_BASE_URL = None

    assert what_leaves_the_machine().startswith("Nothing leaves this machine")


def test_a_model_on_this_machine_is_said_to_be_here(settings):
    settings.LLM_BASE_URL, settings.LLM_MODEL = "http://localhost:11434/v1", "llama"

    assert "llama at http://localhost:11434/v1, which runs on it" in what_leaves_the_machine()


def test_a_model_elsewhere_is_named_with_what_goes_there(settings):
    settings.LLM_BASE_URL, settings.LLM_MODEL = "https://api.example.com/v1", "gpt"

    said = what_leaves_the_machine()

    assert "gpt at https://api.example.com/v1" in said
    assert "what is typed in chats" in said
    assert "prompts and answers of imported calls stay here" in said


@pytest.mark.parametrize(
    ("check", "values", "found"),
    [
        (checks.check_debug, {"DEBUG": True, "ALLOWED_HOSTS": ["netra.example.com"]}, "netra.E002"),
        (checks.check_debug, {"DEBUG": True, "ALLOWED_HOSTS": ["localhost"]}, None),
        (checks.check_any_host, {"ALLOWED_HOSTS": ["*"]}, "netra.E003"),
        (checks.check_https, {"ALLOWED_HOSTS": ["netra.example.com"], "SESSION_COOKIE_SECURE": False}, "netra.W001"),
        (checks.check_https, {"ALLOWED_HOSTS": ["netra.example.com"], "SESSION_COOKIE_SECURE": True}, None),
        (checks.check_https, {"ALLOWED_HOSTS": ["localhost", "127.0.0.1", "[::1]"]}, None),
        (checks.check_model_endpoint, {"LLM_BASE_URL": "http://models.example.com", "LLM_API_KEY": "k"}, "netra.W002"),
        (checks.check_model_endpoint, {"LLM_BASE_URL": "https://models.example.com", "LLM_API_KEY": "k"}, None),
    ],
)
def test_what_is_dangerous_is_named_with_a_hint(settings, check, values, found):
    for name, value in values.items():
        setattr(settings, name, value)

    findings = check(None)

    assert [finding.id for finding in findings] == ([found] if found else [])
    assert all(finding.hint for finding in findings)


def test_a_configured_database_needs_a_configured_key(settings, tmp_path):
    settings.NETRA_HOME = tmp_path
    settings.CONFIGURATION = [{"name": "DATABASE_URL", "value": "***"}, {"name": "NETRA_SECRET_KEY", "value": "None"}]

    assert [finding.id for finding in checks.check_secret_key(None)] == ["netra.E001"]

    (tmp_path / "secret-key").write_text("kept")
    assert checks.check_secret_key(None) == []


def test_check_config_masks_secrets_and_fails_on_errors(settings):
    settings.ALLOWED_HOSTS = ["*"]
    out = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command("check_config", "--json", stdout=out)

    document = json.loads(out.getvalue())
    assert ended.value.code == 1
    assert "netra.E003" in [finding["id"] for finding in document["findings"]]
    values = {variable["name"]: variable["value"] for variable in document["variables"]}
    assert set(values["DATABASE_URL"]) == {"*"}


def _services() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_the_containers_run_the_processes_of_the_house():
    address = Address(host="0.0.0.0", port=8000)
    house = [web_command(address), *background_commands().values()]
    containers = [_services()[name] for name in ("web", "agent-worker", "tool-worker", "import-worker", "scheduler")]

    for command, container in zip(house, containers, strict=True):
        words = [str(word).replace(f"{ROOT}/", "") for word in command]
        assert ["python", *words[1:]] == container["command"]


def test_every_queue_has_a_worker_and_the_health_check_asks_for_it(settings):
    taken = {str(words[words.index("-Q") + 1]) for words in background_commands().values() if "-Q" in words}

    assert taken == {queue.name for queue in settings.CELERY_TASK_QUEUES} == WORKERS


def test_the_containers_are_given_every_variable_that_has_a_place_there(settings):
    given = set(_services()["web"]["environment"])
    # In the Dockerfile; for developers; for `make run`; for fault tests.
    elsewhere = {"NETRA_HOME", "NETRA_DEBUG", "NETRA_SAMPLE_DATA", "NETRA_DEBUG_POINTS"}

    assert given | elsewhere == {variable["name"] for variable in settings.CONFIGURATION}


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="needs docker-compose")
def test_docker_compose_accepts_the_file():
    environment = os.environ | {"POSTGRES_PASSWORD": "a", "NETRA_SECRET_KEY": "b"}

    done = subprocess.run(["docker-compose", "config"], cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.fixture
def bare(tmp_path) -> Path:
    """The Makefile in a directory without `.venv`."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *words], cwd=directory, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_the_targets(bare):
    listed = re.findall(r"make (\w+)", make(bare).stdout)

    assert listed == ["help", "install", "run", "test", "faults", "bench", "check"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_old_python_is_a_sentence(bare):
    old = bare / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    for python in (str(old), ""):
        done = make(bare, "install", f"PYTHON={python}")
        assert done.returncode == 2
        assert "Netra needs Python 3.11 or later" in done.stdout
    assert not (bare / ".venv").exists()
