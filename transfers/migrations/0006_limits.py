"""How many bytes each client brought in a day; and error codes without choices."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0005_groups'),
    ]

    operations = [
        migrations.AlterField(
            model_name='transfer',
            name='error_code',
            field=models.CharField(blank=True, max_length=32),
        ),
        migrations.CreateModel(
            name='Usage',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField()),
                ('written', models.BigIntegerField(default=0)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='usage', to='transfers.client')),
            ],
            options={
                'indexes': [models.Index(fields=['day'], name='transfers_u_day_5b926d_idx')],
                'constraints': [models.UniqueConstraint(fields=('client', 'day'), name='one_usage_of_a_day')],
            },
        ),
    ]
