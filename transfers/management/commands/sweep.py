"""`manage.py sweep`: puts right what a crash left, expires deadlines, reports what is missing."""

from typing import Any

from transfers import recovery
from transfers.management import base


class Command(base.Command):
    help = (
        "Puts right what a crash left behind, expires deadlines, and removes what is too old: leftovers, "
        "rows, and landed files if SILENTMODE_KEEP_DAYS says so. Safe beside a running server."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        report = recovery.sweep()
        self.stdout.write(str(report))
        for name in report.missing:
            self.stdout.write(f"missing: {name}")
