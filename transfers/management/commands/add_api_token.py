"""`manage.py add_api_token <username>`: a token for the API, creating the user if needed."""

from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from knox.models import AuthToken
from knox.settings import knox_settings

from transfers.access import GROUPS, Action, join_group, may
from transfers.acting import acting, at_the_command_line
from transfers.management import arguments, base
from transfers.models import Label, Scope


class Command(base.Command):
    help = (
        "Makes an API token for a user. A new user gets the rights of the group operator (--group), for all "
        "clients or those with a label (--label). The token is shown once, alone on the last line of "
        "standard output."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--group", choices=list(GROUPS), help="of a new user; default: operator"
        )
        parser.add_argument(
            "--label",
            action="append",
            default=[],
            help="limits a new user to such clients (repeatable)",
        )
        parser.add_argument(
            "--valid-for",
            metavar="TIME",
            help="such as 8h or 30d; default: SILENTMODE_API_TOKEN_DAYS",
        )

    def handle(
        self,
        *args: Any,
        username: str,
        group: str | None,
        label: list[str],
        valid_for: str | None,
        **options: Any,
    ) -> None:
        expiry = arguments.valid_for(valid_for) if valid_for else knox_settings.TOKEN_TTL
        with acting(at_the_command_line), transaction.atomic():
            user = User.objects.filter(username=username).first()
            if user is None:
                user = self._create(username, group or "operator", label)
            elif group or label:
                raise CommandError(f"{username} exists; the admin changes its groups and labels.")
            made, token = AuthToken.objects.create(user, expiry=expiry)
        if not may(user, Action.REQUEST_FILE):
            self.stderr.write(f"{username} may not ask for files; the admin can change that.")
        until = f"until {made.expiry:%Y-%m-%d %H:%M} UTC" if made.expiry else "for ever"
        self.stderr.write(
            f"The token is shown only now, and valid {until}; send it as `Authorization: Token …`:"
        )
        self.stdout.write(token)

    def _create(self, username: str, group: str, labels: list[str]) -> User:
        user = User(username=username)
        user.set_unusable_password()
        try:
            user.full_clean()
            wanted = Label.called(labels)
        except ValidationError as invalid:
            raise CommandError(f"{username!r}: {' '.join(invalid.messages)}") from None
        user.save()
        join_group(user, group)
        if wanted:
            Scope.objects.create(user=user).labels.set(Label.there(wanted))
        self.stderr.write(f"Created the user {username} in the group {group}.")
        return user
