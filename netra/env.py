"""The only reader of the environment: every variable is declared, typed and explained once, here.

`.env.example` and the admin's configuration page are checked against this declaration.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from apps.operations.processes import is_alive

BASE_DIR = Path(__file__).resolve().parent.parent


class Environment(BaseSettings):
    """The variables Netra understands. A value that cannot be used is refused at start, all of them at once."""

    model_config = SettingsConfigDict(env_file=BASE_DIR / ".env", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 16 or later, postgresql://user:password@host/name. Unset: embedded PostgreSQL."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis 6.2 or later, redis://host:6379/0 or unix:///path. Unset: embedded Redis."
    )
    netra_home: Path = Field(BASE_DIR / ".netra", description="Where a house keeps its data, uploads and keys.")
    netra_secret_key: SecretStr | None = Field(
        None, min_length=32, description="Signs sessions. Unset: made once and kept in the home."
    )
    netra_debug: bool = Field(False, description="Django's debug pages, for developers only.")
    netra_https: bool = Field(False, description="True behind TLS: secure cookies, HSTS and a redirect to https.")
    netra_allowed_hosts: Annotated[list[str], NoDecode] = Field(
        ["localhost", "127.0.0.1", "[::1]"], description="Host names that the site answers to, comma-separated."
    )
    netra_csrf_trusted_origins: Annotated[list[str], NoDecode] = Field(
        [], description="Origins (https://name) of forms and sockets behind a proxy, comma-separated."
    )
    netra_max_upload_bytes: int = Field(1024**3, gt=0, description="Largest upload that is accepted, in bytes.")
    netra_analysis_memory_mib: int = Field(320, ge=64, description="Memory cap of one analysis, in MiB.")
    netra_sample_data: bool = Field(True, description="Seed synthetic sample data at the first start.")
    netra_open_sign_up: bool = Field(True, description="Whether anybody who reaches the site may create an account.")
    netra_extensions: Annotated[list[str], NoDecode] = Field(
        [], description="Python modules with agents, tools and workflows of your own, comma-separated."
    )
    netra_workflow: str = Field("savings", description="The workflow that answers a message.")
    netra_drain_seconds: float = Field(
        20.0, ge=0, description="Seconds that a stopping worker lets its steps go on before it hands them over."
    )
    netra_tool_memory_mib: int = Field(
        1024, ge=128, description="Memory that a tool in a tool worker may have, in MiB."
    )
    netra_debug_points: Path | None = Field(
        None, description="For fault tests: a directory in which files hold processes at named points."
    )
    netra_log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    netra_llm_base_url: str | None = Field(
        None,
        description="An OpenAI-compatible endpoint, for example http://localhost:11434/v1. Unset: offline planner.",
    )
    netra_llm_api_key: SecretStr | None = Field(None, description="The key for that endpoint.")
    netra_llm_model: str | None = Field(None, description="The model to ask there, for example gpt-5-mini.")
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        max_length=500,
        description="An OpenTelemetry collector, for example http://localhost:4318: finished runs are traced there.",
    )
    otel_exporter_otlp_headers: SecretStr = Field(
        SecretStr(""), description="What the collector wants to be told, key=value, comma-separated."
    )
    otel_service_name: str = Field("netra", description="What this installation is called there.")

    @field_validator("netra_allowed_hosts", "netra_csrf_trusted_origins", "netra_extensions", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @property
    def running_house(self) -> dict[str, Any]:
        """What the house started from this home says of itself; empty when none runs."""
        try:
            house = dict(json.loads((self.netra_home / "house.json").read_text()))
        except (FileNotFoundError, NotADirectoryError, PermissionError, json.JSONDecodeError):
            return {}
        # One that was killed could not take its word back.
        return house if is_alive(house["pid"]) else {}

    @property
    def secret_key(self) -> str | None:
        """The configured key, else the one kept in the home, else None."""
        if self.netra_secret_key:
            return self.netra_secret_key.get_secret_value()
        try:
            return (self.netra_home / "secret-key").read_text().strip() or None
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None

    @property
    def database(self) -> str | None:
        """The URL of PostgreSQL: configured, else that of the running house."""
        return self.database_url.get_secret_value() if self.database_url else self.running_house.get("database_url")

    @property
    def redis(self) -> str | None:
        """The URL of Redis: configured, else that of the running house."""
        return self.redis_url.get_secret_value() if self.redis_url else self.running_house.get("redis_url")

    def declared(self) -> list[dict[str, str]]:
        """Name, value (secrets masked) and meaning of every variable, for the admin and the documentation."""
        return [
            {"name": name.upper(), "value": str(getattr(self, name)), "meaning": field.description or ""}
            for name, field in type(self).model_fields.items()
        ]


def _read() -> Environment:
    """The environment, or the end of the process with a sentence for each value that cannot be used (exit status 2)."""
    try:
        return Environment()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{name} cannot be used: {problem['msg']}. .env.example says what it means.\n")
        raise SystemExit(2) from None


ENV = _read()
