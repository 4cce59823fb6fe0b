from django.db import migrations

OLD, NEW = 'exact_duplicates', 'exact_cache'


def rename(apps, old, new):
    apps.get_model('optimization', 'Recommendation').objects.filter(strategy=old).update(strategy=new)


class Migration(migrations.Migration):
    """Advice that was taken goes on being measured under the strategy's new name."""

    dependencies = [
        ('optimization', '0005_no_confidence_in_ceilings'),
    ]

    operations = [
        migrations.RunPython(
            lambda apps, editor: rename(apps, OLD, NEW), lambda apps, editor: rename(apps, NEW, OLD)
        ),
    ]
