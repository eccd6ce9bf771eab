"""`manage.py new_enrolment_key --uses 200`: a key with which many machines enrol as new clients."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from transfers.acting import acting, at_the_command_line
from transfers.management import arguments, base
from transfers.models import MAX_USES, Label, make_key


class Command(base.Command):
    help = (
        "Makes a key with which several machines enrol as new clients; they wait as pending until somebody "
        "approves them. The key is shown once, alone on the last line of standard output."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--uses", type=int, required=True, help="how many machines may enrol")
        parser.add_argument(
            "--valid-for", metavar="TIME", default="24h", help="such as 8h or 7d; default: 24h"
        )
        parser.add_argument(
            "--label", action="append", default=[], help="of its clients (repeatable)"
        )

    def handle(
        self, *args: Any, uses: int, valid_for: str, label: list[str], **options: Any
    ) -> None:
        if not 1 <= uses <= MAX_USES:
            raise CommandError(f"--uses {uses}: a key has from 1 to {MAX_USES} uses.")
        span = arguments.valid_for(valid_for)
        try:
            labels = Label.called(label)
        except ValidationError as invalid:
            raise CommandError(f"--label: {' '.join(invalid.messages)}") from None
        with acting(at_the_command_line):
            key = make_key(uses, span, labels)
        self.stderr.write(
            "On each machine (its client id is its host name, or what --id says):\n"
            "    python -m agent enrol --server wss://<this server> --code <the key>\n"
            "Then approve the new clients: in the admin, or with `manage.py approve_client`. "
            "The key is shown only now:"
        )
        self.stdout.write(key)
