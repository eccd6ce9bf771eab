"""`manage.py export_audit`: the audit log as JSON lines."""

import json
from typing import Any

from django.core.management.base import CommandParser

from transfers.acting import acting, at_the_command_line
from transfers.management import base
from transfers.models import AuditRecord, Event, record


class Command(base.Command):
    help = "Writes the audit log to standard output, oldest first, one JSON object a line."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--after", type=int, default=0, metavar="NUMBER", help="only rows after this one"
        )

    def handle(self, *args: Any, after: int, **options: Any) -> None:
        rows = AuditRecord.objects.filter(number__gt=after).order_by("number")
        last = after
        for row in rows.iterator():
            self.stdout.write(json.dumps({**json.loads(row.as_json()), "digest": row.digest}))
            last = row.number
        with acting(at_the_command_line):
            record(Event.AUDIT_EXPORTED, after=after, up_to=last)
