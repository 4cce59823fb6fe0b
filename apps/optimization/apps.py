from django.apps import AppConfig
from django.utils import timezone


class OptimizationConfig(AppConfig):
    name = "apps.optimization"
    label = "optimization"

    def ready(self) -> None:
        from apps.operations import periodic
        from apps.optimization import advice, live, retention, services  # need the models

        periodic.register("prices", every=600.0, work=lambda: services.watch_prices(now=timezone.now()))
        periodic.register("imports", every=5.0, work=lambda: services.rescue_imports(now=timezone.now()))
        periodic.register("live", every=5.0, work=lambda: live.import_spools(now=timezone.now()))
        periodic.register("retention", every=3600.0, work=lambda: retention.remove_old_calls(timezone.now()))
        periodic.register("analyses", every=5.0, work=lambda: advice.rescue_analyses(now=timezone.now()))
