"""How fast each transfer may be at most."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0008_wire_bytes'),
    ]

    operations = [
        migrations.AddField(
            model_name='transfer',
            name='rate_limit',
            field=models.BigIntegerField(null=True),
        ),
    ]
