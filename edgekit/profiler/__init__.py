"""Measuring: a bundle under load -> Profile; Profiles -> reports. Start with ``bench.py``.

``profile_bundle`` measures, ``save_profile`` and ``load_profile`` keep, ``render_markdown`` and ``render_html`` show.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.profiler.bench import profile_bundle as profile_bundle
    from edgekit.profiler.profiles import Profile as Profile
    from edgekit.profiler.profiles import load_profile as load_profile
    from edgekit.profiler.profiles import save_profile as save_profile
    from edgekit.profiler.report import render_html as render_html
    from edgekit.profiler.report import render_markdown as render_markdown

_HOMES = {
    "Profile": "edgekit.profiler.profiles",
    "load_profile": "edgekit.profiler.profiles",
    "profile_bundle": "edgekit.profiler.bench",
    "render_html": "edgekit.profiler.report",
    "render_markdown": "edgekit.profiler.report",
    "save_profile": "edgekit.profiler.profiles",
}
__all__ = ["Profile", "load_profile", "profile_bundle", "render_html", "render_markdown", "save_profile"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit.profiler' has no attribute '{name}'")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    return found
