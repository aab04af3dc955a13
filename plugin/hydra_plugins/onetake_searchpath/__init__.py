"""onetake's configs, for every Hydra application in whose environment onetake is installed.

They are searched last, so an application's own files come first. Hydra finds this module by its place in the
namespace package ``hydra_plugins``, which therefore must not have an ``__init__.py``.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from onetake.core.shipped import shipped_folder


class OnetakeSearchPath(SearchPathPlugin):
    """Appends the folder of onetake's configs to the search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("onetake", f"file://{shipped_folder('configs')}")  # Hydra takes it literally
