"""What 0002 has made room for: apart, because PostgreSQL alters no table with changes pending."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [('transfers', '0002_life_of_a_request')]

    operations = [
        migrations.RemoveConstraint('transfer', 'one_transfer_per_idempotency_key'),
        migrations.RemoveField('transfer', 'idempotency_key'),
        migrations.AddConstraint(
            'requestkey',
            models.UniqueConstraint(fields=('requested_by', 'key'), name='one_transfer_per_idempotency_key'),
        ),
        migrations.AddConstraint(
            'transfer',
            models.UniqueConstraint(
                condition=models.Q(duplicate=False, status__in=['interrupted', 'queued', 'receiving', 'requested', 'verifying']),
                fields=('client', 'path_key'),
                name='one_live_transfer_of_a_file',
            ),
        ),
        migrations.RemoveIndex('transfer', 'transfers_t_status_91e571_idx'),
        migrations.AddIndex('transfer', models.Index(fields=['status', 'deadline'], name='transfers_t_status_134e72_idx')),
    ]
