"""What people fill in, on the console's pages and in the admin."""

from typing import Any

from django import forms
from django.conf import settings

from agent.wire.messages import MAX_PATH
from transfers.models import MAX_REASON


class RequestForm(forms.Form):
    """Asking for a file."""

    path = forms.CharField(
        required=False,
        max_length=MAX_PATH,
        strip=False,
        widget=forms.TextInput(attrs={"size": 80}),
        help_text="On the client. Empty: the file that its agent offers (--file).",
    )
    reason = forms.CharField(
        required=False, max_length=MAX_REASON, widget=forms.TextInput(attrs={"size": 80})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = settings.REQUIRE_REASON

    def clean_path(self) -> str | None:
        """None: the file that the agent offers."""
        return self.cleaned_data["path"] or None
