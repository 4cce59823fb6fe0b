from django.apps import AppConfig


class ExecutionConfig(AppConfig):
    name = "apps.execution"
    label = "execution"

    def ready(self) -> None:
        from apps.execution import export  # needs the models
        from apps.operations import periodic, telemetry

        if telemetry.is_on():
            periodic.register("traces", every=export.EVERY, work=export.export_traces)
