from django.db import migrations, models

# Calls were booked when they had ended, and each was a question of its own.
_BOOKED = """
update llm_modelcall set state = 'answered', key = replace(id::text, '-', ''),
    finished_at = started_at, started_at = started_at - make_interval(secs => seconds)
"""
# Where nothing may be unknown, only the cost says that it is.
_UNBOOKED = """
update llm_modelcall set started_at = coalesce(finished_at, started_at), seconds = coalesce(seconds, 0),
    input_tokens = coalesce(input_tokens, 0), cached_read_tokens = coalesce(cached_read_tokens, 0),
    output_tokens = coalesce(output_tokens, 0)
"""


class Migration(migrations.Migration):
    dependencies = [
        ('llm', '0002_price'),
    ]

    operations = [
        migrations.RenameField('modelcall', 'created_at', 'started_at'),
        migrations.AddField('modelcall', 'finished_at', models.DateTimeField(editable=False, null=True)),
        migrations.AddField('modelcall', 'answer', models.TextField(editable=False, null=True)),
        migrations.AddField('modelcall', 'key', models.CharField(default='', max_length=64), preserve_default=False),
        migrations.AddField(
            'modelcall',
            'state',
            models.CharField(
                choices=[('asked', 'Asked'), ('answered', 'Answered'), ('cut', 'Cut')], default='asked', max_length=16
            ),
        ),
        migrations.AlterField('modelcall', 'input_tokens', models.PositiveIntegerField(null=True)),
        migrations.AlterField('modelcall', 'cached_read_tokens', models.PositiveIntegerField(null=True)),
        migrations.AlterField('modelcall', 'output_tokens', models.PositiveIntegerField(null=True)),
        migrations.AlterField('modelcall', 'seconds', models.FloatField(null=True)),
        migrations.RunSQL(_BOOKED, _UNBOOKED),
        migrations.AddConstraint(
            'modelcall',
            models.UniqueConstraint(
                condition=models.Q(('state', 'answered')), fields=('run', 'step', 'key'), name='model_call_answered_once'
            ),
        ),
    ]
