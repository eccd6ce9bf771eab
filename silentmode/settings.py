"""Settings, all from the environment; every one has a safe default on one machine.

Names have the prefix `SILENTMODE_`, but for `DATABASE_URL` and `REDIS_URL`. The README lists them.
A bad value stops the start with a sentence.
"""

import ipaddress
import os
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF
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
        TLS = env.str("TLS", "off", validate=validate.OneOf(["off", "proxy", "own"]))
        trusted_proxies: list[str] = env.list("TRUSTED_PROXIES", [])
        MAX_FILE_SIZE = env.int(
            "MAX_FILE_SIZE", 1024**4, validate=validate.Range(min=1, max=2**63 - 1)
        )
        WINDOW = env.int("WINDOW", 8 * 1024**2, validate=validate.Range(min=1024**2, max=1024**3))
        COMPRESSION = env.bool("COMPRESSION", True)
        MAX_CHUNK = env.int(  # the protocol's own bounds, in bytes: agent/wire/messages.py
            "MAX_CHUNK", 512 * 1024, validate=validate.Range(min=64 * 1024, max=512 * 1024)
        )
        MIN_FREE_SPACE = env.int(
            "MIN_FREE_SPACE", 256 * 1024**2, validate=validate.Range(min=0, max=2**63 - 1)
        )
        # At once: transfers of this process, and what their windows hold in memory, in bytes.
        MAX_ACTIVE_TRANSFERS = env.int("MAX_ACTIVE_TRANSFERS", 64, validate=validate.Range(min=1))
        MAX_ACTIVE_PER_CLIENT = env.int(  # the protocol's own bound, too
            "MAX_ACTIVE_PER_CLIENT", 8, validate=validate.Range(min=1, max=8)
        )
        MAX_IN_FLIGHT = env.int("MAX_IN_FLIGHT", 512 * 1024**2, validate=validate.Range(min=1))
        MAX_IN_FLIGHT_PER_CLIENT = env.int(
            "MAX_IN_FLIGHT_PER_CLIENT", 64 * 1024**2, validate=validate.Range(min=1)
        )
        BYTES_PER_DAY = env.int("BYTES_PER_DAY", 0, validate=validate.Range(min=0))
        BYTES_PER_DAY_PER_CLIENT = env.int(
            "BYTES_PER_DAY_PER_CLIENT", 0, validate=validate.Range(min=0)
        )
        TURN_SECONDS = env.int("TURN_SECONDS", 600, validate=validate.Range(min=0))
        MIN_RATE = env.int("MIN_RATE", 1024, validate=validate.Range(min=0))
        CONNECTIONS_PER_ADDRESS = env.int(
            "CONNECTIONS_PER_ADDRESS", 1000, validate=validate.Range(min=0)
        )
        RETRIES = env.int("RETRIES", 5, validate=validate.Range(min=0, max=10))
        WEBHOOK_PAUSE = env.float("WEBHOOK_PAUSE", 5.0, validate=validate.Range(min=0.1, max=3600))
        RETRY_PAUSE = env.float("RETRY_PAUSE", 5.0, validate=validate.Range(min=0.1, max=3600))
        KEEP_DAYS = env.int("KEEP_DAYS", 0, validate=validate.Range(min=0, max=36500))
        REQUIRE_REASON = env.bool("REQUIRE_REASON", False)
        API_TOKEN_DAYS = env.int("API_TOKEN_DAYS", 90, validate=validate.Range(min=0, max=3650))
        LOGIN_FAILURES = env.int("LOGIN_FAILURES", 5, validate=validate.Range(min=1, max=1000))
        LOGIN_PAUSE = env.int("LOGIN_PAUSE", 900, validate=validate.Range(min=1, max=86400))
        LOG_LEVEL = env.str(
            "LOG_LEVEL", "INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR"])
        )
        LOG_FORMAT = env.str("LOG_FORMAT", "text", validate=validate.OneOf(["text", "json"]))
        WEBSOCKET_MAX_MESSAGE_SIZE = env.int("WEBSOCKET_MAX_MESSAGE_SIZE", 1024**2)
        WORKERS = env.int("WORKERS", 1, validate=validate.Range(min=1))
        configured_secret_key = env.str("SECRET_KEY", "")
    database_url = env.str("DATABASE_URL", "")
    REDIS_URL = env.str("REDIS_URL", "")
except EnvError as bad_value:
    raise ImproperlyConfigured(str(bad_value)) from None

if "SILENTMODE_BEHIND_TLS" in os.environ:  # passed over in silence, cookies would travel in clear
    raise ImproperlyConfigured("SILENTMODE_BEHIND_TLS is now SILENTMODE_TLS: off, proxy or own.")
try:
    TRUSTED_PROXIES = [ipaddress.ip_network(each.strip()) for each in trusted_proxies]
except ValueError as bad_network:
    raise ImproperlyConfigured(
        f"SILENTMODE_TRUSTED_PROXIES: {bad_network}. It takes addresses and networks, like 10.0.0.0/24."
    ) from None

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
    "csp",
    "knox",
    "django_filters",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "transfers",
]

MIDDLEWARE = [
    # The first four before static files, so that those have the headers, too.
    "csp.middleware.CSPMiddleware",
    "transfers.headers.headers_middleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "transfers.acting.ActingMiddleware",
    "transfers.refusals.PageRefusals",
    "axes.middleware.AxesMiddleware",  # the last: it answers for the login that it has stopped
]

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",  # stops who guesses too often; transfers.login as well
    "django.contrib.auth.backends.ModelBackend",
]
AXES_FAILURE_LIMIT = LOGIN_FAILURES
AXES_COOLOFF_TIME = timedelta(seconds=LOGIN_PAUSE)
# A name from one address: else anyone could lock out a colleague, or a whole office behind one NAT.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # nothing is written while locked out
AXES_LOCKOUT_CALLABLE = "transfers.login.locked_out"
AXES_ENABLE_ADMIN = False  # the audit log has what it counts
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
AXES_CLIENT_IP_CALLABLE = "transfers.peer.address_of"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "console:clients"

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
            "ENGINE": "silentmode.sqlite",
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
        # Psycopg's own most is its least, 4: requests, pages that are open and transfers would wait for one.
        database.setdefault("OPTIONS", {})["pool"] = {"min_size": 4, "max_size": 16}
        database["CONN_MAX_AGE"] = 0
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # The layer waits 5 s at a time for a message, as long as redis-py 8 waits for any answer.
            "hosts": [{"address": REDIS_URL, "socket_timeout": 30}],
            "capacity": 10_000,  # all agents ring when they come back, and 100 would drown the others
        },
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
SERVESTATIC_USE_FINDERS = True  # straight from the installed packages: no collectstatic step
SERVESTATIC_AUTOREFRESH = False

APPEND_SLASH = False

# Browsers: only our own files, nothing inline, nothing framed. Pages that need more say so (urls.py).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "img-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
# Not no-referrer: browsers would send `Origin: null` then, which the protection of forms refuses.
SECURE_REFERRER_POLICY = "same-origin"

SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 12 * 3600  # a working day; not renewed by use
# Not Strict: a link to a transfer, in a ticket or a mail, would lead who is logged in to the login page.
# Lax keeps the cookie from every request that changes something: those are POST, with a CSRF token.
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = TLS != "off"
if TLS != "off":
    # By this prefix browsers refuse a cookie that another host of the domain, or plain HTTP, has set.
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-sessionid", "__Host-csrftoken"
    SECURE_REDIRECT_EXEMPT = [r"^(healthz|metrics)$"]  # monitors ask past the proxy
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
if TLS == "proxy":
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SILENCED_SYSTEM_CHECKS = [
    # HSTS for subdomains, and in the lists that browsers come with: a decision on all hosts of a domain,
    # which is not this server's to make.
    "security.W005",
    "security.W021",
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "transfers.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["transfers.access.MayOperate"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "transfers.refusals.error_response",
}

REST_KNOX = {
    "SECURE_HASH_ALGORITHM": "hashlib.sha256",
    "AUTH_TOKEN_CHARACTER_LENGTH": 64,  # hexadecimal: 256 random bits
    "TOKEN_TTL": timedelta(days=API_TOKEN_DAYS) if API_TOKEN_DAYS else None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Silentmode",
    "DESCRIPTION": "Pull files from machines that nobody can dial.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "COMPONENT_SPLIT_PATCH": False,  # what is patched is taken whole
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "transfers.schema.add_refusals",
    ],
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "transfers.logs.EscapedFormatter", "fmt": "[server] %(message)s"},
        "libraries": {
            "()": "transfers.logs.EscapedFormatter",
            "fmt": "[server] %(levelname)s %(name)s: %(message)s",
        },
        "json": {"()": "transfers.logs.JsonFormatter"},
    },
    "filters": {"said": {"()": "transfers.logs.SaidAlready"}},
    "handlers": {
        "nowhere": {"class": "logging.NullHandler"},
        "console": {"class": "transfers.logs.ConsoleHandler", "formatter": LOG_FORMAT},
        "libraries": {
            "class": "transfers.logs.ConsoleHandler",
            "formatter": "libraries" if LOG_FORMAT == "text" else LOG_FORMAT,
        },
    },
    # In place of the handler that daphne gave it, which escapes nothing; the level stays daphne's.
    "root": {"handlers": ["libraries"]},
    "loggers": {
        "django": {"handlers": [], "level": "INFO"},  # Django's own handlers escape nothing, too
        "django.request": {"filters": ["said"]},
        # The view says it. Not without a handler: logging's last resort would print it as it came.
        "django.security.DisallowedHost": {"handlers": ["nowhere"], "propagate": False},
        # A line for each guess; `transfers.audit_signals` has a few of them.
        "axes": {"level": "ERROR"},
        "transfers": {"handlers": ["console"], "level": LOG_LEVEL, "propagate": False},
    },
}
