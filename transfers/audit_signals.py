"""Every change of users, their rights and their tokens goes to the audit log, whoever makes it.

By Django's signals, because these models are Django's and knox': the admin, a command and a shell all
change them the same way.
"""

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from axes.signals import user_locked_out
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver
from django.utils import timezone
from knox.models import AuthToken

from agent.wire.display import shown

from .acting import actor
from .models import AuditRecord, Event, Label, Scope, Webhook, record

log = logging.getLogger(__name__)

NOT_SAID = frozenset({"password", "last_login"})
"""Fields whose values stay out of the log: that a password changed is said, not to what."""

WEBHOOK_FIELDS = ("active", "landed", "failed", "expired")
"""Of a webhook, what is said to have been chosen; its secret is not."""

_BEFORE = "_before_the_change"


def _facts(user: User) -> dict[str, Any]:
    return {field.attname: getattr(user, field.attname) for field in User._meta.concrete_fields}


@receiver(pre_save, sender=User)
def remember(instance: User, **kwargs: Any) -> None:
    before = User.objects.filter(pk=instance.pk).first() if instance.pk else None
    setattr(instance, _BEFORE, _facts(before) if before else {})


@receiver(post_save, sender=User)
def user_saved(instance: User, created: bool, **kwargs: Any) -> None:
    before = getattr(instance, _BEFORE, {})
    changed = {
        name: value
        for name, value in _facts(instance).items()
        if before.get(name) != value and name != "last_login"
    }
    if changed:
        said = {name: value for name, value in changed.items() if value and name not in NOT_SAID}
        record(
            Event.USER_CHANGED,
            user=instance.get_username(),
            created=created,
            changed=sorted(changed),
            values=[f"{name}={value}" for name, value in sorted(said.items())],
        )


@receiver(post_delete, sender=User)
def user_removed(instance: User, **kwargs: Any) -> None:
    record(Event.USER_REMOVED, user=instance.get_username())


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=Group.permissions.through)
@receiver(m2m_changed, sender=Scope.labels.through)
def rights_changed(
    instance: Model, action: str, model: type[Model], pk_set: Iterable[Any] | None, **kwargs: Any
) -> None:
    if action not in ("post_add", "post_remove", "post_clear"):
        return
    which = [str(each) for each in model._default_manager.filter(pk__in=pk_set or ())]
    if which or action == "post_clear":
        record(
            Event.RIGHTS_CHANGED,
            of=str(instance),
            what=model._meta.verbose_name_plural,
            change=action.removeprefix("post_"),
            which=sorted(which),
        )


@receiver(post_save, sender=Scope)
@receiver(post_delete, sender=Scope)
def scope_changed(instance: Scope, signal: Any, **kwargs: Any) -> None:
    record(
        Event.RIGHTS_CHANGED,
        of=str(instance.user),
        what="limited to labels" if signal is post_save else "not limited to labels any more",
    )


@receiver(post_delete, sender=Label)
def label_removed(instance: Label, **kwargs: Any) -> None:
    record(Event.RIGHTS_CHANGED, of=f"label {instance.pk}", what="removed")


@receiver(post_save, sender=Webhook)
def webhook_saved(instance: Webhook, **kwargs: Any) -> None:
    chosen = [name for name in WEBHOOK_FIELDS if getattr(instance, name)]
    record(Event.WEBHOOK_CHANGED, url=shown(instance.url), told=chosen)


@receiver(post_delete, sender=Webhook)
def webhook_removed(instance: Webhook, **kwargs: Any) -> None:
    record(Event.WEBHOOK_REMOVED, url=shown(instance.url))


@receiver(post_save, sender=AuthToken)
def token_made(instance: AuthToken, created: bool, **kwargs: Any) -> None:
    if created:
        record(
            Event.TOKEN_MADE,
            user=instance.user.get_username(),
            token=instance.token_key,
            expires=instance.expiry,
        )


@receiver(post_delete, sender=AuthToken)
def token_revoked(instance: AuthToken, **kwargs: Any) -> None:
    record(Event.TOKEN_REVOKED, user=instance.user.get_username(), token=instance.token_key)


@receiver(user_logged_in)
def logged_in(user: User, **kwargs: Any) -> None:
    record(Event.LOGGED_IN, user=user.get_username())


@receiver(user_logged_out)
def logged_out(user: User | None, **kwargs: Any) -> None:
    if user is not None:
        record(Event.LOGGED_OUT, user=user.get_username())


@receiver(user_login_failed)
def login_failed(credentials: dict[str, Any], **kwargs: Any) -> None:
    _record_a_few(Event.LOGIN_FAILED, str(credentials.get("username", "")))


@receiver(user_locked_out)
def locked_out(username: str, **kwargs: Any) -> None:
    _record_a_few(Event.LOCKED_OUT, str(username))


def _record_a_few(event: Event, username: str) -> None:
    """Whoever guesses on while locked out, under whatever names, must not fill the log."""
    since = timezone.now() - timedelta(seconds=settings.LOGIN_PAUSE)
    lately = AuditRecord.objects.filter(event=event, address=actor().address, at__gt=since)
    most = 1 if event is Event.LOCKED_OUT else settings.LOGIN_FAILURES
    if lately.count() < 10 * most and lately.filter(details__user=_name(username)).count() < most:
        record(event, user=_name(username))
        log.warning("%s: %s from %s", event.label, _name(username), actor().address)


def _name(username: str) -> str:
    return shown(username)[:150]
