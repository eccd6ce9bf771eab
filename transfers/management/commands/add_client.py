"""`manage.py add_client <client_id>`: registers a client and shows its token, once."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from transfers.auth import digest, new_token
from transfers.models import Client


class Command(BaseCommand):
    help = "Registers a client. Its token is shown once, alone on the last line of standard output."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("client_id")

    def handle(self, *args: Any, client_id: str, **options: Any) -> None:
        token = new_token()
        client = Client(id=client_id, token_sha256=digest(token))
        if Client.objects.filter(pk=client_id).exists():
            raise CommandError(
                f"{client_id} is registered already, and its token cannot be shown again. If it is lost, "
                "revoke the client in the admin and register the machine under another id."
            )
        try:
            client.full_clean()
        except ValidationError as invalid:
            raise CommandError(f"{client_id!r}: {' '.join(invalid.messages)}") from None
        client.save(force_insert=True)
        self.stderr.write(
            f"Registered {client_id}. Its token is shown only now; give it to the agent as SILENTMODE_TOKEN:"
        )
        self.stdout.write(token)
