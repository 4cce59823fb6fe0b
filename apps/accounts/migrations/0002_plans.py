from django.db import migrations


def create_plans(apps, schema_editor):
    Plan = apps.get_model("accounts", "Plan")
    for code, max_datasets in [("free", 20), ("early", 100), ("mid", 500), ("enterprise", 5000)]:
        Plan.objects.create(code=code, max_running_runs=5, max_datasets=max_datasets)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]
    operations = [migrations.RunPython(create_plans, migrations.RunPython.noop)]
