"""Labels of clients, and the users who may deal with some labels only."""

from collections.abc import Iterable
from typing import Self

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

label_validator = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z",
    "A label has 1 to 64 letters, digits, dots, colons, dashes or underscores, and begins with a letter "
    "or a digit.",
)


class Label(models.Model):
    """A word that groups clients: a region, a franchisee, a kind of machine."""

    name = models.CharField(primary_key=True, max_length=64, validators=[label_validator])

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def called(cls, names: Iterable[str]) -> list[Self]:
        """Labels with these names, each once; not saved. Raises ValidationError."""
        labels = [cls(name=name) for name in dict.fromkeys(names)]
        for label in labels:
            label.clean_fields()
        return labels

    @classmethod
    def there(cls, labels: Iterable[Self]) -> list[Self]:
        """The same, of which those that are new are saved."""
        labels = list(labels)
        cls.objects.bulk_create(labels, ignore_conflicts=True)
        return labels


class Scope(models.Model):
    """The clients that a user may deal with: those that have one of these labels.

    A user without a scope may deal with all; one whose scope has no label, with none.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="scope"
    )
    labels = models.ManyToManyField(Label, blank=True, related_name="scopes")

    def __str__(self) -> str:
        return f"Scope of {self.user}"
