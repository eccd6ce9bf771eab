"""The groups viewer, operator and admin; and the labels that clients had as JSON.

Permissions are otherwise made after all migrations, too late to be given to a group here.
"""

from django.db import migrations

VIEWER = ['transfers.view_client', 'transfers.view_transfer']
OPERATOR = [*VIEWER, 'transfers.add_transfer', 'transfers.change_transfer', 'transfers.fetch_file']
ADMIN = [
    *OPERATOR,
    'transfers.change_client', 'transfers.change_label', 'transfers.add_client', 'transfers.view_auditrecord',
    'auth.view_user', 'auth.add_user', 'auth.change_user',
]
NAMES = {
    'transfers.view_client': 'Can view client',
    'transfers.view_transfer': 'Can view transfer',
    'transfers.add_transfer': 'Can add transfer',
    'transfers.change_transfer': 'Can change transfer',
    'transfers.fetch_file': 'Can fetch landed files',
    'transfers.change_client': 'Can change client',
    'transfers.change_label': 'Can change label',
    'transfers.add_client': 'Can add client',
    'transfers.view_auditrecord': 'Can view audit record',
    'auth.view_user': 'Can view user',
    'auth.add_user': 'Can add user',
    'auth.change_user': 'Can change user',
}


def permission(apps, name):
    app, _, codename = name.partition('.')
    model = 'transfer' if codename == 'fetch_file' else codename.rpartition('_')[2]
    content_type, _ = apps.get_model('contenttypes', 'ContentType').objects.get_or_create(
        app_label=app, model=model
    )
    made, _ = apps.get_model('auth', 'Permission').objects.get_or_create(
        content_type=content_type, codename=codename, defaults={'name': NAMES[name]}
    )
    return made


def make_groups(apps, schema_editor):
    Group = apps.get_model('auth', 'Group')
    for name, wanted in (('viewer', VIEWER), ('operator', OPERATOR), ('admin', ADMIN)):
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.add(*(permission(apps, each) for each in wanted))


def move_operators(apps, schema_editor):
    """Who could ask for files so far could fetch them, too: which now takes a right of its own."""
    operator = apps.get_model('auth', 'Group').objects.get(name='operator')
    may_ask = permission(apps, 'transfers.add_transfer')
    for user in apps.get_model('auth', 'User').objects.filter(user_permissions=may_ask):
        user.groups.add(operator)


def move_labels(apps, schema_editor):
    Label = apps.get_model('transfers', 'Label')
    for client in apps.get_model('transfers', 'Client').objects.exclude(labels_before=[]):
        names = [str(name)[:64] for name in client.labels_before]
        client.labels.set([Label.objects.get_or_create(name=name)[0] for name in names])


class Migration(migrations.Migration):

    dependencies = [
        ('transfers', '0004_rights_and_audit'),
        ('auth', '0012_alter_user_first_name_max_length'),
        ('contenttypes', '0002_remove_content_type_name'),
    ]

    operations = [
        migrations.RunPython(make_groups, migrations.RunPython.noop),
        migrations.RunPython(move_operators, migrations.RunPython.noop),
        migrations.RunPython(move_labels, migrations.RunPython.noop),
        migrations.RemoveField('client', 'labels_before'),
    ]
