"""Tiny bundles with random weights, as the runtime's tests make them."""

from tests.runtime.conftest import load, tiny_bundle

__all__ = ["load", "tiny_bundle"]
