"""What several commands take."""

from datetime import timedelta

from django.core.management.base import CommandError

from transfers.durations import duration


def valid_for(text: str) -> timedelta:
    """The span that `--valid-for` says. Raises CommandError."""
    try:
        return duration(text)
    except ValueError as error:
        raise CommandError(f"--valid-for: {error}") from None
