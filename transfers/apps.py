"""The app, and its system checks: deploy mistakes, each with an id and a hint."""

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.db import connections
from django.db.models.signals import post_migrate

from agent.wire.messages import Chunk


class TransfersConfig(AppConfig):
    name = "transfers"
    verbose_name = "Silentmode"

    def ready(self) -> None:
        import_module("transfers.schema")  # registers itself with drf-spectacular
        import_module("transfers.audit_signals")  # listens to changes of users and tokens
        post_migrate.connect(use_write_ahead_log, sender=self)


def use_write_ahead_log(using: str, **kwargs: Any) -> None:
    """SQLite: readers beside one writer. Kept in the database file, so once is enough."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")


@register("silentmode")
def check_channel_layer(**kwargs: Any) -> Sequence[CheckMessage]:
    in_memory = settings.CHANNEL_LAYERS["default"]["BACKEND"].endswith("InMemoryChannelLayer")
    if settings.WORKERS > 1 and in_memory:
        return [
            Error(
                f"{settings.WORKERS} workers share no channel layer: requests would not reach agents "
                "that are connected to another worker.",
                hint="Set REDIS_URL, or SILENTMODE_WORKERS=1 and run one process.",
                id="silentmode.E001",
            )
        ]
    return []


@register("silentmode")
def check_data_directory(**kwargs: Any) -> Sequence[CheckMessage]:
    for directory in (settings.PARTIAL_DIR, settings.DOWNLOADS_DIR):
        if not os.access(directory, os.W_OK | os.X_OK):
            return [
                Error(
                    f"The directory {directory} cannot be written.",
                    hint="Give it to the server's user, or set SILENTMODE_DATA_DIR to another.",
                    id="silentmode.E002",
                )
            ]
    if settings.PARTIAL_DIR.stat().st_dev != settings.DOWNLOADS_DIR.stat().st_dev:
        return [
            Error(
                f"{settings.PARTIAL_DIR} and {settings.DOWNLOADS_DIR} are on different file systems, "
                "where a rename cannot be atomic.",
                hint="Mount one file system for the whole data directory.",
                id="silentmode.E003",
            )
        ]
    return []


@register("silentmode")
def check_message_limit(**kwargs: Any) -> Sequence[CheckMessage]:
    largest = settings.MAX_CHUNK + Chunk.HEADER.size
    if largest > settings.WEBSOCKET_MAX_MESSAGE_SIZE:
        return [
            Error(
                f"A chunk has up to {largest} bytes, and daphne would cut messages at "
                f"{settings.WEBSOCKET_MAX_MESSAGE_SIZE}.",
                hint="Start daphne with a larger --websocket-max-message-size and say the same in "
                "SILENTMODE_WEBSOCKET_MAX_MESSAGE_SIZE; or lower SILENTMODE_MAX_CHUNK.",
                id="silentmode.E004",
            )
        ]
    return []


@register("silentmode")
def check_limits(**kwargs: Any) -> Sequence[CheckMessage]:
    """Settings of limits that contradict each other."""
    return [*_too_little_in_flight(), *_share_beyond_the_whole()]


def _too_little_in_flight() -> Iterator[CheckMessage]:
    for setting in ("MAX_IN_FLIGHT", "MAX_IN_FLIGHT_PER_CLIENT"):
        if getattr(settings, setting) < settings.WINDOW:
            yield Error(
                f"SILENTMODE_{setting} is less than the one window that each transfer holds "
                f"({settings.WINDOW} bytes).",
                hint=f"Raise SILENTMODE_{setting}, or lower SILENTMODE_WINDOW.",
                id="silentmode.E005",
            )


def _share_beyond_the_whole() -> Iterator[CheckMessage]:
    for share, whole in (
        ("MAX_ACTIVE_PER_CLIENT", "MAX_ACTIVE_TRANSFERS"),
        ("MAX_IN_FLIGHT_PER_CLIENT", "MAX_IN_FLIGHT"),
        ("BYTES_PER_DAY_PER_CLIENT", "BYTES_PER_DAY"),
    ):
        most = getattr(settings, whole)
        if most and getattr(settings, share) > most:
            yield CheckWarning(
                f"SILENTMODE_{share} is more than SILENTMODE_{whole}, which counts.",
                hint=f"Lower SILENTMODE_{share}, or raise SILENTMODE_{whole}.",
                id="silentmode.W002",
            )


@register("silentmode", deploy=True)
def check_allowed_hosts(**kwargs: Any) -> Sequence[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS:
        return [
            CheckWarning(
                "SILENTMODE_ALLOWED_HOSTS lets any Host header in.",
                hint="Name the hosts that operators use.",
                id="silentmode.W001",
            )
        ]
    return []
