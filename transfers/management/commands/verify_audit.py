"""`manage.py verify_audit`: checks that no row of the audit log was changed, removed or slipped in."""

import re
from typing import Any

from django.core.management.base import CommandError, CommandParser

from transfers.management import base
from transfers.models import verify


class Command(base.Command):
    help = (
        "Checks the audit log's chain of hashes; exit status 1 and what is wrong when it is broken. Note the "
        "last line elsewhere, and give it to a later check as --expect: that finds even a log that was "
        "written anew."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--expect", metavar="NUMBER:HASH", help="what an earlier check printed last"
        )

    def handle(self, *args: Any, expect: str | None, **options: Any) -> None:
        verdict = verify(_noted(expect) if expect else None)
        for problem in verdict.problems:
            self.stderr.write(problem)
        if verdict.problems:
            raise CommandError(
                f"The audit log was tampered with: {len(verdict.problems)} problems."
            )
        self.stderr.write(f"{verdict.rows} rows, each follows the one before it. It ends with:")
        self.stdout.write(f"{verdict.rows}:{verdict.digest}")


def _noted(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
    if not match:
        raise CommandError(f"--expect {text}: it looks like 17:3a7bd3…, as this command prints it.")
    return int(match[1]), match[2]
