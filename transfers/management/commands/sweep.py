"""`manage.py sweep`: puts right what a crash left, expires deadlines, reports what is missing."""

from typing import Any

from django.core.management.base import BaseCommand

from transfers import recovery


class Command(BaseCommand):
    help = (
        "Puts right what a crash left behind, expires deadlines, and removes what is too old: leftovers, "
        "rows, and landed files if SILENTMODE_KEEP_DAYS says so. Safe beside a running server."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        report = recovery.sweep()
        self.stdout.write(str(report))
        for name in report.missing:
            self.stdout.write(f"missing: {name}")
