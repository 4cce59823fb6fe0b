from django.apps import AppConfig


class ExecutionConfig(AppConfig):
    name = "apps.execution"
    label = "execution"

    def ready(self) -> None:
        from apps.execution.sweep import sweep  # needs the models
        from apps.operations import periodic

        periodic.register("sweep", every=1.0, work=sweep)
