from importlib import import_module
from pkgutil import iter_modules

from django.apps import AppConfig
from django.conf import settings


class AgentsConfig(AppConfig):
    name = "apps.agents"
    label = "agents"

    def ready(self) -> None:
        """Find every tool and agent (a file in `tools/` or `team/` is enough), and those of the extensions."""
        from apps.execution import registry, releases  # they need the models

        for package in ("apps.agents.tools", "apps.agents.team"):
            for module in iter_modules(import_module(package).__path__):
                import_module(f"{package}.{module.name}")
        import_module("apps.agents.workflows")
        for name in settings.EXTENSIONS:
            import_module(name)
        import_module("apps.agents.forgetting")
        registry.validate()
        releases.validate_releases()
