"""What all commands have in common."""

from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Standard output is for what a script reads, so people are told on standard error, whatever it is:
    not in the red that Django has for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stderr.style_func = None
