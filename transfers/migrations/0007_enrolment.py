"""Enrolment codes and keys; clients that wait to be approved, and tokens that change."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0006_limits'),
    ]

    operations = [
        migrations.AddField(
            model_name='client',
            name='approved_at',
            field=models.DateTimeField(default=django.utils.timezone.now, editable=False, null=True),
        ),
        migrations.AddField(
            model_name='client',
            name='enrolled_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='client',
            name='next_token_sha256',
            field=models.CharField(editable=False, max_length=64, null=True, unique=True),
        ),
        migrations.AddField(
            model_name='client',
            name='renewable',
            field=models.BooleanField(default=False, editable=False),
        ),
        migrations.AddField(
            model_name='client',
            name='rotate_requested_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='client',
            name='rung_at',
            field=models.DateTimeField(db_index=True, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name='client',
            name='token_sha256',
            field=models.CharField(editable=False, max_length=64, null=True, unique=True),
        ),
        migrations.CreateModel(
            name='EnrolmentKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('uses', models.PositiveIntegerField(default=1, editable=False)),
                ('uses_left', models.PositiveIntegerField(default=1, editable=False)),
                ('made_by', models.CharField(editable=False, max_length=200)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField(editable=False)),
                ('revoked_at', models.DateTimeField(editable=False, null=True)),
                ('client', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='codes', to='transfers.client')),
                ('labels', models.ManyToManyField(blank=True, editable=False, related_name='+', to='transfers.label')),
            ],
            options={
                'ordering': ('-created_at', '-pk'),
            },
        ),
        migrations.CreateModel(
            name='Enrolment',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('token_sha256', models.CharField(max_length=64)),
                ('at', models.DateTimeField(default=django.utils.timezone.now)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='transfers.client')),
                ('key', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='given', to='transfers.enrolmentkey')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('key', 'token_sha256'), name='one_enrolment_of_a_token')],
            },
        ),
    ]
