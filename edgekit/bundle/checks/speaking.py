"""Speaking: the components of the way of speaking, its samplings, and what its own struct knows of itself."""

import msgspec

from edgekit.bundle.checks.answering import sampling_faults
from edgekit.bundle.checks.signatures import held_faults
from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import Manifest, Sampling


def speaking_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong with how answers are spoken."""
    speech = manifest.speech
    if speech is None:
        return
    for name, free in speech.components().items():
        component = manifest.components.get(name)
        if component is None:
            yield fault("components", f"has no '{name}', speech of kind '{speech.kind}' needs it")
            continue
        yield from held_faults(f"components.{name}", component, free)
    if isinstance(speech, msgspec.Struct):
        for name in speech.__struct_fields__:
            value = getattr(speech, name)
            if isinstance(value, Sampling):
                yield from sampling_faults(f"speech.{name}", value)
    yield from speech.faults(manifest)
