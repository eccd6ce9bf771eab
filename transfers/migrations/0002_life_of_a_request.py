"""Pauses before new attempts, one live transfer of a file, and idempotency keys of their own."""

import hashlib

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def carry_over(apps, schema_editor):
    """Rows of before: two live ones of a file were allowed, and the keys were on them."""
    Transfer = apps.get_model('transfers', 'Transfer')
    RequestKey = apps.get_model('transfers', 'RequestKey')
    for transfer in Transfer.objects.all().iterator():
        transfer.duplicate = True
        if transfer.path is not None:
            transfer.path_key = hashlib.sha256(transfer.path.encode()).hexdigest()
        transfer.save(update_fields=['duplicate', 'path_key'])
        if transfer.idempotency_key is not None:
            RequestKey.objects.create(
                requested_by_id=transfer.requested_by_id,
                key=transfer.idempotency_key,
                transfer=transfer,
            )


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField('transfer', 'setbacks', models.PositiveSmallIntegerField(default=0)),
        migrations.AddField('transfer', 'next_attempt_at', models.DateTimeField(null=True)),
        migrations.AddField('transfer', 'duplicate', models.BooleanField(default=False)),
        migrations.AddField('transfer', 'path_key', models.CharField(blank=True, default='', editable=False, max_length=64), preserve_default=False),
        migrations.CreateModel(
            name='RequestKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('requested_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('key', models.CharField(max_length=255)),
                ('transfer', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='transfers.transfer')),
            ],
        ),
        migrations.RunPython(carry_over, migrations.RunPython.noop),
    ]
