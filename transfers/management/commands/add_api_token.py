"""`manage.py add_api_token <username>`: a token for the API, creating the user if needed."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandParser
from knox.models import AuthToken

from transfers.auth import make_operator


class Command(BaseCommand):
    help = (
        "Makes an API token for a user; a new user may list clients and transfers, ask for files, cancel "
        "and retry. The token is shown once, alone on the last line of standard output."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        user, new = User.objects.get_or_create(username=username)
        if new:
            user.set_unusable_password()
            user.save()
            make_operator(user)
            self.stderr.write(f"Created the operator {username}.")
        _, token = AuthToken.objects.create(user)
        self.stderr.write("The token is shown only now; send it as `Authorization: Token …`:")
        self.stdout.write(token)
