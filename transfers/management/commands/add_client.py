"""`manage.py add_client <client_id>`: registers a client, and makes the code that it enrols with."""

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from transfers.acting import acting, at_the_command_line
from transfers.management import arguments, base
from transfers.models import Client, Event, make_code, record
from transfers.tokens import digest, new_token


class Command(base.Command):
    help = (
        "Registers a client and makes a code, with which one machine enrols as it, once. With --token it "
        "makes the client's lasting token instead; with --renew a code for a client that exists. What it "
        "makes is shown once, alone on the last line of standard output."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("client_id")
        parser.add_argument(
            "--valid-for", metavar="TIME", help="of the code, such as 30m or 7d; default: 1h"
        )
        parser.add_argument(
            "--label", action="append", default=[], help="of the client (repeatable)"
        )
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument(
            "--token",
            action="store_true",
            help="make a lasting token, for SILENTMODE_TOKEN or --token-file of the agent",
        )
        instead.add_argument(
            "--renew",
            action="store_true",
            help="for a client that exists: a lost token, a machine reinstalled, a revocation to be lifted",
        )

    def handle(
        self,
        *args: Any,
        client_id: str,
        valid_for: str | None,
        label: list[str],
        token: bool,
        renew: bool,
        **options: Any,
    ) -> None:
        if token and valid_for:
            raise CommandError("--valid-for is for codes; a token lasts.")
        span = arguments.valid_for(valid_for or "1h")
        with acting(at_the_command_line), transaction.atomic():
            client = self._known(client_id) if renew else self._register(client_id)
            made = self._make_token(client) if token else self._make_code(client, span)
            if label:
                self._label(client, label)
        self.stdout.write(made)

    def _known(self, client_id: str) -> Client:
        client = Client.objects.filter(pk=client_id).first()
        if client is None:
            raise CommandError(
                f"There is no client {client_id!r}. Without --renew it is registered."
            )
        if client.revoked_at is not None:
            self.stderr.write(
                f"The access of {client} was revoked. The use of the code lifts that."
            )
        return client

    def _register(self, client_id: str) -> Client:
        if Client.objects.filter(pk=client_id).exists():
            raise CommandError(
                f"{client_id} is registered already. `add_client {client_id} --renew` makes a new code for "
                "it, for a machine that has lost its token or was reinstalled."
            )
        client = Client(id=client_id)
        try:
            client.full_clean(exclude=["token_sha256", "next_token_sha256"])
        except ValidationError as invalid:
            raise CommandError(f"{client_id!r}: {' '.join(invalid.messages)}") from None
        client.save(force_insert=True)
        record(Event.CLIENT_ADDED, client=client)
        return client

    def _label(self, client: Client, names: list[str]) -> None:
        try:
            client.label(names)
        except ValidationError as invalid:
            raise CommandError(f"--label: {' '.join(invalid.messages)}") from None

    def _make_token(self, client: Client) -> str:
        token = new_token()
        client.token_sha256 = digest(token)
        client.save(update_fields=["token_sha256"])
        record(Event.TOKEN_MADE, client=client)
        self.stderr.write(
            f"Registered {client}. Its token is shown only now; give it to the agent as SILENTMODE_TOKEN:"
        )
        return token

    def _make_code(self, client: Client, span: timedelta) -> str:
        code = make_code(client, span)
        until = client.codes.latest("pk").expires_at
        if client.token_sha256 is not None:
            self.stderr.write(f"The present token of {client} ends with the use of the code.")
        self.stderr.write(
            f"On the machine that is to be {client}, before {until:%Y-%m-%d %H:%M} UTC:\n"
            "    python -m agent enrol --server wss://<this server> --code <the code>\n"
            "The code is shown only now:"
        )
        return code
