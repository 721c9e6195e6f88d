"""The runtime's tiny bundles, for what serves them."""

from tests.runtime.conftest import load, tiny_bundle  # noqa: F401 - fixtures
