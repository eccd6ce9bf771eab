"""When clients were online: what their leases said, once they have ended."""

from datetime import timedelta

from django.db import models
from django.utils import timezone

KEPT = timedelta(days=90)
"""For how long it is kept, for people to look at."""

SHORTEST_GAP = timedelta(seconds=15)
"""Who is back so soon, as after a lost link, was not away for anybody who reads it."""


class Presence(models.Model):
    """A time for which a client was online, which is over."""

    client = models.ForeignKey("Client", on_delete=models.CASCADE, related_name="presences")
    begun = models.DateTimeField()
    ended = models.DateTimeField()

    class Meta:
        ordering = ("-ended",)
        indexes = (
            models.Index(fields=("client", "ended")),
            models.Index(fields=("ended",)),
        )

    def __str__(self) -> str:
        return f"{self.client_id} from {self.begun} to {self.ended}"


def forget_old_presences() -> None:
    """Nobody asks when a client was online long ago; only since when it was not, of one that came back."""
    old = Presence.objects.filter(ended__lt=timezone.now() - KEPT)
    later = old.filter(client=models.OuterRef("client"), ended__gt=models.OuterRef("ended"))
    old.filter(models.Exists(later)).delete()
