"""What is kept for a time only: landed files, and rows that nobody asks for any more."""

import logging
from datetime import timedelta

from axes.models import AccessAttempt
from django.conf import settings
from django.utils import timezone

from .models import Delivery, Presence, Transfer, Usage

log = logging.getLogger(__name__)


def remove_aged() -> int:
    """Remove landed files that are older than they are kept, and that nobody holds."""
    if not settings.KEEP_DAYS:
        return 0
    removed = 0
    landed_before = timezone.now() - timedelta(days=settings.KEEP_DAYS)
    for transfer in Transfer.objects.landed_before(landed_before).iterator():
        try:
            removed += transfer.remove_landed(landed_before)
        except OSError as error:
            log.warning("sweep: %s could not be removed: %s", transfer.file, error)
    return removed


def forget_old() -> None:
    """Delete the rows of what was long ago."""
    Usage.forget_old()
    Presence.forget_old()
    Delivery.forget_old()
    counts_until = timezone.now() - settings.AXES_COOLOFF_TIME
    AccessAttempt.objects.filter(attempt_time__lt=counts_until).delete()
