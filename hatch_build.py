"""Build hook: bundles the widgets' JavaScript into `widgets/static/`, for wheels and editable
installs."""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        script = Path(self.root, "widgets", "build.py")
        if not script.exists():
            self.app.display_warning(f"{script} is missing: the widgets' pages are not bundled")
            return
        spec = importlib.util.spec_from_file_location("widgets_build", script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.build()
