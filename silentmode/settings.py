"""Settings, all from the environment; every one has a safe default on one machine.

Names have the prefix `SILENTMODE_`, but for `DATABASE_URL` and `REDIS_URL`. The README lists them.
A bad value stops the start with a sentence.
"""

import os
import secrets
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvError, validate

os.umask(0o077)  # whatever the server writes, the database among it, is its user's alone

BASE_DIR = Path(__file__).resolve().parent.parent


def _secret_key(path: Path) -> str:
    """The key kept at `path`, made on first start; two first starts at once agree on one."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    if not path.exists():
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(64))
            file.flush()
            os.fsync(descriptor)
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if not (key := path.read_text().strip()):
        raise ImproperlyConfigured(
            f"{path} is empty. Remove it, and a new key is made (users log in anew)."
        )
    return key


env = Env(expand_vars=False)
try:
    with env.prefixed("SILENTMODE_"):
        DATA_DIR = Path(env.str("DATA_DIR", "") or BASE_DIR / "var").resolve()
        DEBUG = env.bool("DEBUG", False)
        ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
        CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
        BEHIND_TLS = env.bool("BEHIND_TLS", False)
        MAX_FILE_SIZE = env.int(
            "MAX_FILE_SIZE", 1024**4, validate=validate.Range(min=1, max=2**63 - 1)
        )
        WINDOW = env.int("WINDOW", 8 * 1024**2, validate=validate.Range(min=1024**2, max=1024**3))
        MIN_FREE_SPACE = env.int(
            "MIN_FREE_SPACE", 256 * 1024**2, validate=validate.Range(min=0, max=2**63 - 1)
        )
        RETRIES = env.int("RETRIES", 5, validate=validate.Range(min=0, max=10))
        RETRY_PAUSE = env.float("RETRY_PAUSE", 5.0, validate=validate.Range(min=0.1, max=3600))
        LOG_LEVEL = env.str(
            "LOG_LEVEL", "INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])
        )
        WEBSOCKET_MAX_MESSAGE_SIZE = env.int("WEBSOCKET_MAX_MESSAGE_SIZE", 1024**2)
        WORKERS = env.int("WORKERS", 1, validate=validate.Range(min=1))
        configured_secret_key = env.str("SECRET_KEY", "")
    database_url = env.str("DATABASE_URL", "")
    REDIS_URL = env.str("REDIS_URL", "")
except EnvError as bad_value:
    raise ImproperlyConfigured(str(bad_value)) from None

if REDIS_URL and not REDIS_URL.startswith(("redis://", "rediss://", "unix://")):
    raise ImproperlyConfigured(
        f"REDIS_URL {REDIS_URL!r} is no Redis URL, like redis://localhost:6379/0."
    )

PARTIAL_DIR = DATA_DIR / "partial"
DOWNLOADS_DIR = DATA_DIR / "downloads"
try:
    for directory in (DATA_DIR, PARTIAL_DIR, DOWNLOADS_DIR):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    SECRET_KEY = configured_secret_key or _secret_key(DATA_DIR / "secret_key")
except OSError as error:
    raise ImproperlyConfigured(
        f"The data directory {DATA_DIR} cannot be used: {error.strerror}. Set SILENTMODE_DATA_DIR to a "
        "directory that the server's user may write to."
    ) from None

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "transfers",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "silentmode.urls"
ASGI_APPLICATION = "silentmode.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database() -> dict[str, Any]:
    if not database_url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "db.sqlite3",
            "TEST": {
                "NAME": DATA_DIR / "test.sqlite3"
            },  # a file: threads cannot share one in memory
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA synchronous=FULL",
            },
        }
    try:
        database: dict[str, Any] = dict(dj_database_url.parse(database_url))
    except ValueError as bad:
        raise ImproperlyConfigured(f"DATABASE_URL cannot be read: {bad}") from None
    if database["ENGINE"] == "django.db.backends.postgresql":
        # Connections are per thread, and an ASGI server has many: a pool, and none kept for ever.
        database.setdefault("OPTIONS", {})["pool"] = True
        database["CONN_MAX_AGE"] = 0
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # The layer waits 5 s at a time for a message, as long as redis-py 8 waits for any answer.
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": 30}]},
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
    )
]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
SERVESTATIC_USE_FINDERS = True  # straight from the installed packages: no collectstatic step
SERVESTATIC_AUTOREFRESH = False

LOGIN_URL = "admin:login"
APPEND_SLASH = False
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = BEHIND_TLS
if BEHIND_TLS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_REDIRECT_EXEMPT = [r"^healthz$"]  # monitors ask past the proxy
    SECURE_HSTS_SECONDS = 365 * 24 * 3600

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "transfers.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["transfers.auth.MayOperate"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "transfers.views.error_response",
}

REST_KNOX = {
    "SECURE_HASH_ALGORITHM": "hashlib.sha256",
    "AUTH_TOKEN_CHARACTER_LENGTH": 64,  # hexadecimal: 256 random bits
    "TOKEN_TTL": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Silentmode",
    "DESCRIPTION": "Pull files from machines that nobody can dial.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"server": {"format": "[server] %(message)s"}},
    "handlers": {
        "console": {"class": "transfers.progress.ConsoleHandler", "formatter": "server"},
    },
    "loggers": {
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},  # the view says it
        # Not propagated: daphne gives the root logger a handler of its own.
        "transfers": {"handlers": ["console"], "level": LOG_LEVEL, "propagate": False},
    },
}
