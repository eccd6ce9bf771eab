"""Labels as rows, scopes of users, reasons, holds, and the audit log."""

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0003_one_live_transfer'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditHead',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveBigIntegerField(default=0)),
                ('digest', models.CharField(default='0000000000000000000000000000000000000000000000000000000000000000', max_length=64)),
            ],
        ),
        migrations.CreateModel(
            name='Label',
            fields=[
                ('name', models.CharField(max_length=64, primary_key=True, serialize=False, validators=[django.core.validators.RegexValidator('\\A[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\\Z', 'A label has 1 to 64 letters, digits, dots, colons, dashes or underscores, and begins with a letter or a digit.')])),
            ],
            options={
                'ordering': ('name',),
            },
        ),
        migrations.AlterModelOptions(
            name='transfer',
            options={'ordering': ('-created_at', '-id'), 'permissions': (('fetch_file', 'Can fetch landed files'),)},
        ),
        migrations.AddField(
            model_name='transfer',
            name='held',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='transfer',
            name='reason',
            field=models.CharField(blank=True, max_length=500),
        ),
        migrations.AddField(
            model_name='transfer',
            name='removed_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.RenameField(
            model_name='client',
            old_name='labels',
            new_name='labels_before',
        ),
        migrations.CreateModel(
            name='AuditRecord',
            fields=[
                ('number', models.PositiveBigIntegerField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('actor', models.CharField(max_length=200)),
                ('address', models.CharField(blank=True, max_length=64)),
                ('event', models.CharField(max_length=32)),
                ('client', models.CharField(blank=True, max_length=64)),
                ('transfer', models.UUIDField(null=True)),
                ('details', models.JSONField(default=dict)),
                ('previous', models.CharField(max_length=64)),
                ('digest', models.CharField(max_length=64)),
            ],
            options={
                'ordering': ('-number',),
                'indexes': [models.Index(fields=['client', 'number'], name='transfers_a_client_8de7f4_idx'), models.Index(fields=['transfer'], name='transfers_a_transfe_b9771e_idx'), models.Index(fields=['event', 'number'], name='transfers_a_event_01c3a0_idx')],
            },
        ),
        migrations.CreateModel(
            name='Scope',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('labels', models.ManyToManyField(blank=True, related_name='scopes', to='transfers.label')),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='scope', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.AddField(
            model_name='client',
            name='labels',
            field=models.ManyToManyField(blank=True, related_name='clients', to='transfers.label'),
        ),
    ]
