from django.apps import AppConfig


class ExecutionConfig(AppConfig):
    name = "apps.execution"
    label = "execution"

    def ready(self) -> None:
        from apps.execution import export  # needs the models
        from apps.execution.sweep import sweep
        from apps.operations import periodic, telemetry

        periodic.register("sweep", every=1.0, work=sweep)
        if telemetry.is_on():
            periodic.register("traces", every=export.EVERY, work=export.export_traces)
