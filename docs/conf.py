"""How the documentation is built; ``nox -s docs`` turns every warning into an error."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Blackhole"
copyright = "the Blackhole authors"
author = "the Blackhole authors"
release = version = importlib.metadata.version("blackhole-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "phase_diagram"]
exclude_patterns = ["_build", "_ext", "adr/template.md"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Blackhole {release}"

nitpicky = True
# Named in docstrings of public things, not public themselves.
nitpick_ignore = [("py:meth", "blackhole_core.events.EventBus.emit"), ("py:mod", "blackhole_core.state.plain")]
# The build needs no network, so other projects' inventories are not fetched and their names cannot be linked; ours must all resolve.
nitpick_ignore_regex = [("py:.*", r"(?!blackhole_core(\.|$)).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
