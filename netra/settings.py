"""Every setting, in one file, in sections. Values from outside come through `netra.env` only."""

import logging
import secrets
from datetime import timedelta
from typing import Any

import structlog
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from kombu import Queue
from psycopg.conninfo import conninfo_to_dict

from netra.env import ENV

# --- What is installed -----------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "apps.accounts.apps.SignInsConfig",
    "csp",
    "django_filters",
    "django_structlog",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "knox",
    "rest_framework",
    "simple_history",
    "apps.accounts",
    "apps.operations",
    "apps.realtime",
    "apps.llm",
    "apps.conversations",
    "apps.optimization",
    "apps.execution",
    "apps.agents",
    "apps.web",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "apps.accounts.middleware.ForgetMalformedSession",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "apps.operations.middleware.RequestLog",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "netra.urls"
ASGI_APPLICATION = "netra.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"

# --- Where things are ------------------------------------------------------------------------------------------------

NETRA_HOME = ENV.netra_home
MEDIA_ROOT = NETRA_HOME / "files"
STATIC_URL = "/static/"
# Static files are served straight from the apps: no collect step, nothing to go stale.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = ENV.netra_debug

# --- Stores ----------------------------------------------------------------------------------------------------------


def _database(url: str | None) -> dict[str, Any]:
    """Django's description of the PostgreSQL behind `url`; without one, any use says what to do."""
    if url is None:
        return {"ENGINE": "django.db.backends.dummy"}
    parts = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    known = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    options: dict[str, Any] = {key: value for key, value in parts.items() if key not in known}
    # A connection is lent for one unit of work; nothing may wait on a lock or idle in a transaction for long.
    # What is prepared is executed thousands of times: plan it once, and not anew for each set of parameters.
    limits = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=15s -c plan_cache_mode=force_generic_plan"
    # Django would switch preparing off; statements that do not ask for it are still not prepared.
    options |= {"options": limits, "prepare_threshold": 5}
    options |= {"pool": {"min_size": 1, "max_size": 24, "timeout": 5}}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0,
        # A pooled connection that died with its server is replaced before it is lent.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
        **{known[key]: value for key, value in parts.items() if key in known},
    }


DATABASES = {"default": _database(ENV.database)}
REDIS_URL = ENV.redis or "redis://no-redis-configured.invalid:6379/0"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}}
SESSION_ENGINE = "django.contrib.sessions.backends.db"

# --- Security --------------------------------------------------------------------------------------------------------

# Without a configured or kept key this process signs with one that dies with it; `manage.py start` keeps one.
SECRET_KEY = ENV.secret_key or secrets.token_urlsafe(48)
DEBUG = ENV.netra_debug
ALLOWED_HOSTS = ENV.netra_allowed_hosts
CSRF_TRUSTED_ORIGINS = ENV.netra_csrf_trusted_origins
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = ENV.netra_https
SECURE_HSTS_SECONDS = 31536000 if ENV.netra_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = ENV.netra_https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ENV.netra_https else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_AGE = 14 * 24 * 3600  # seconds
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024**2  # bytes, of everything but files
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
MAX_UPLOAD_BYTES = ENV.netra_max_upload_bytes
# The admin's theme evaluates expressions in attributes; only its own pages get the right to.
CONTENT_SECURITY_POLICY = {
    "EXCLUDE_URL_PREFIXES": ["/admin/"],
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    },
}

# --- People ----------------------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = LOGIN_URL
OPEN_SIGN_UP = ENV.netra_open_sign_up
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_FORM_FIELD = "username"
AXES_USERNAME_CALLABLE = "apps.accounts.authentication.name_to_lock"
AXES_VERBOSE = False
AXES_LOCKOUT_TEMPLATE = "accounts/locked.html"
CSRF_FAILURE_VIEW = "apps.web.pages.csrf_refused"
KNOX_TOKEN_MODEL = "accounts.ApiKey"  # noqa: S105
# Knox's own token table would stay empty: `ApiKey` replaces it.
MIGRATION_MODULES = {"knox": None}
REST_KNOX = {
    "TOKEN_MODEL": KNOX_TOKEN_MODEL,
    "TOKEN_PREFIX": "ntr_",
    "TOKEN_TTL": timedelta(days=90),
    "AUTH_HEADER_PREFIX": "Bearer",
}

# --- The admin -------------------------------------------------------------------------------------------------------

UNFOLD = {"SITE_TITLE": "Netra", "SITE_HEADER": "Netra"}

# --- REST ------------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.accounts.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["apps.accounts.permissions.ReadOrAct"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["apps.operations.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.operations.problems.problem_response",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Netra",
    "DESCRIPTION": "Agents that find what an LLM bill could save, on your own calls, and prove it.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "RunState": "apps.conversations.models.Run.State",
        "DatasetState": "apps.optimization.models.Dataset.State",
        "AnalysisState": "apps.optimization.models.StoredAnalysis.State",
        "RecommendationState": "apps.optimization.models.Recommendation.State",
    },
}

# --- Workers: Celery carries a run id, never the truth ---------------------------------------------------------------

# Kombu spells a socket and its database in its own way.
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "agents"
# A ring that is lost is rung again by the sweep. To write down in Redis which ring was heard takes longer than hearing.
CELERY_TASK_QUEUES = [Queue(name, no_ack=True) for name in ("agents", "tools", "imports")]
CELERY_TASK_ROUTES = {
    "execution.wake": {"queue": "agents"},
    "execution.run_tool": {"queue": "tools"},
    "optimization.import_small": {"queue": "imports"},
    "optimization.*": {"queue": "tools"},
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 21600,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
}

# --- The model behind the agents -------------------------------------------------------------------------------------

LLM_BASE_URL = ENV.netra_llm_base_url
LLM_API_KEY = ENV.netra_llm_api_key.get_secret_value() if ENV.netra_llm_api_key else None
LLM_MODEL = ENV.netra_llm_model
if (LLM_BASE_URL is None) != (LLM_MODEL is None):
    raise ImproperlyConfigured("NETRA_LLM_BASE_URL and NETRA_LLM_MODEL belong together: set both, or neither.")

# --- Traces, for a collector -----------------------------------------------------------------------------------------

OTLP_ENDPOINT = ENV.otel_exporter_otlp_endpoint
OTLP_HEADERS = ENV.otel_exporter_otlp_headers.get_secret_value()
OTLP_SERVICE_NAME = ENV.otel_service_name

# --- Agents and analyses ----------------------------------------------------------------------------------------------

DEFAULT_WORKFLOW = ENV.netra_workflow
EXTENSIONS = ENV.netra_extensions
TOOL_MEMORY_MIB = ENV.netra_tool_memory_mib
DRAIN_SECONDS = ENV.netra_drain_seconds
DEBUG_POINTS = ENV.netra_debug_points
ANALYSIS_MEMORY_MIB = ENV.netra_analysis_memory_mib
SAMPLE_DATA = ENV.netra_sample_data

# --- What is said in the log -----------------------------------------------------------------------------------------

CONFIGURATION = ENV.declared()
# Whoever follows a thread leaves at some time; that is no warning.
DJANGO_STRUCTLOG_REQUEST_CANCELLED_LOG_LEVEL = logging.INFO
_SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _without_request(logger: Any, name: str, event: Any) -> Any:
    """Django's log lines bring the request along; its query string may hold what must not be logged."""
    event.pop("request", None)
    return event


structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_SHARED_PROCESSORS,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": [*_SHARED_PROCESSORS, structlog.stdlib.ExtraAdder(), _without_request],
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
            ],
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": ENV.netra_log_level},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "django_structlog": {"level": "WARNING"},
        "django": {"level": "WARNING"},
        "axes": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "psycopg.pool": {"level": "ERROR"},
    },
}
