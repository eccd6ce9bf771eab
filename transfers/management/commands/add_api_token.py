"""`manage.py add_api_token <username>`: a token for the API, creating the user if needed."""

from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from knox.models import AuthToken

from transfers.auth import Action, make_operator, may


class Command(BaseCommand):
    help = (
        "Makes an API token for a user; a new user may list clients and transfers, ask for files, cancel "
        "and retry. The token is shown once, alone on the last line of standard output."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        user = User.objects.filter(username=username).first() or self._create(username)
        if not may(user, Action.REQUEST_FILE):
            self.stderr.write(
                f"{username} may not ask for files; the admin can give the permission."
            )
        _, token = AuthToken.objects.create(user)
        self.stderr.write("The token is shown only now; send it as `Authorization: Token …`:")
        self.stdout.write(token)

    def _create(self, username: str) -> User:
        user = User(username=username)
        user.set_unusable_password()
        try:
            user.full_clean()
        except ValidationError as invalid:
            raise CommandError(f"{username!r}: {' '.join(invalid.messages)}") from None
        user.save()
        make_operator(user)
        self.stderr.write(f"Created the operator {username}.")
        return user
