"""Components: inputs and outputs that can be bound, and state that can be allocated."""

import math

from edgekit.bundle.faults import Faults, fault, first_twice
from edgekit.bundle.manifest import Component, Manifest, TensorSpec
from edgekit.bundle.ranges import DTYPES, LARGEST_SIZE, MOST_STATE_BYTES, RANKS

_COMPONENTS, _TENSORS = 64, 4096  # at most


def component_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong with the signatures of components, each by itself, and with their state together."""
    if len(manifest.components) > _COMPONENTS:
        yield fault("components", f"are {len(manifest.components)}, at most {_COMPONENTS} are loaded")
    total = 0
    for name, component in manifest.components.items():
        path = f"components.{name}"
        for side, specs in (("inputs", component.inputs), ("outputs", component.outputs)):
            if len(specs) > _TENSORS:
                yield fault(f"{path}.{side}", f"are {len(specs)}, at most {_TENSORS} are bound")
            if (twice := first_twice(spec.name for spec in specs)) is not None:
                yield fault(f"{path}.{side}", f"'{twice}' comes twice")
            for index, spec in enumerate(specs):
                yield from _spec_faults(f"{path}.{side}[{index}]", spec)
        yield from _state_faults(path, component)
        total += sum(_state_bytes(manifest, spec) for spec in component.inputs if spec.state != "none")
    if total > MOST_STATE_BYTES:
        yield fault("components", f"state of {total} bytes is kept by a stream, at most {MOST_STATE_BYTES} may be")


def _spec_faults(path: str, spec: TensorSpec) -> Faults:
    if spec.dtype not in DTYPES:
        yield fault(f"{path}.dtype", f"is '{spec.dtype}', must be one of: {', '.join(DTYPES)}")
    if len(spec.shape) > RANKS:
        yield fault(f"{path}.shape", f"has {len(spec.shape)} sizes, at most {RANKS} are known")
    elif (numbers := math.prod(size for size in spec.shape if isinstance(size, int))) > LARGEST_SIZE:
        yield fault(f"{path}.shape", f"holds {numbers} numbers, at most {LARGEST_SIZE} may be")


def _state_faults(path: str, component: Component) -> Faults:
    """Yield where a state that goes in is not the one that comes out."""
    sides = []
    for side, specs, prefix in (("inputs", component.inputs, "past."), ("outputs", component.outputs, "present.")):
        states = {spec.name: spec for spec in specs if spec.state != "none"}
        if wrong := [name for name in states if not name.startswith(prefix) or name == prefix]:
            yield fault(f"{path}.{side}", f"'{wrong[0]}' is state, its name must begin with '{prefix}'")
        sides.append({name[len(prefix) :]: (one.dtype, one.shape, one.state) for name, one in states.items()})
    past, present = sides
    if differing := sorted(name for name in past.keys() | present.keys() if past.get(name) != present.get(name)):
        yield fault(path, f"state '{differing[0]}' goes in and comes out in different ways")


def _state_bytes(manifest: Manifest, spec: TensorSpec) -> int:
    """Return the size of a state; a free size that only the runtime knows counts as 1."""
    sizes = {"context": manifest.protocol.context_tokens}
    shape = [sizes.get(size, 1) if isinstance(size, str) else size for size in spec.shape]
    return math.prod(shape) * DTYPES.get(spec.dtype, 0)
