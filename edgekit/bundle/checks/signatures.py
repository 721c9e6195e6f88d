"""Signatures: what a component is given, what it gives, and the sizes of both, for checks that know what for."""

from collections.abc import Sequence

from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import Component, TensorSpec

Shape = tuple[int | str, ...]


def signature_faults(
    path: str, component: Component, inputs: Sequence[str], outputs: Sequence[str], others: Sequence[str] = ()
) -> Faults:
    """Yield where a component lacks an input or output, or asks for an input that nobody gives; others: may be left."""
    for side, names, specs in (("input", inputs, component.inputs), ("output", outputs, component.outputs)):
        if absent := [name for name in names if all(spec.name != name for spec in specs)]:
            yield fault(f"{path}.{side}s", f"has no {side} '{absent[0]}', which is needed")
    given = {*inputs, *others}
    if unfed := [spec.name for spec in component.inputs if spec.state == "none" and spec.name not in given]:
        yield fault(f"{path}.inputs", f"has '{unfed[0]}', which nothing gives")


def held_faults(path: str, component: Component, told: Sequence[str]) -> Faults:
    """Yield where a state has a free size that nothing tells; told: those that are known."""
    for spec in component.inputs:
        free = [size for size in spec.shape if isinstance(size, str) and size not in told]
        if spec.state != "none" and free:
            yield fault(
                path, f"state '{spec.name}' has the free size '{free[0]}', {', '.join(told) or 'none'} is told there"
            )


def shape_of(specs: Sequence[TensorSpec], name: str) -> Shape:
    """Return the shape of the tensor of that name, () where there is none."""
    return next((spec.shape for spec in specs if spec.name == name), ())


def widths(one: Shape, other: Shape) -> tuple[int, int] | None:
    """Return the last sizes of two shapes where both are told and differ."""
    pair = one[-1:], other[-1:]
    if all(pair) and isinstance(pair[0][0], int) and isinstance(pair[1][0], int) and pair[0] != pair[1]:
        return pair[0][0], pair[1][0]
    return None
