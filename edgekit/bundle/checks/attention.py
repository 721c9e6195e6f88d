"""Attention: what adapter, backbone and protocol must be for each way in which tokens attend to sound."""

from collections.abc import Callable, Mapping, Sequence

from edgekit.bundle.checks.signatures import held_faults, shape_of, signature_faults, widths
from edgekit.bundle.faults import Faults, fault
from edgekit.bundle.manifest import Manifest, TensorSpec


def _cross_faults(manifest: Manifest, heard: TensorSpec) -> Faults:
    """Yield for a backbone that attends to a cross-KV beside its tokens."""
    path, shape, protocol = "components.adapter", heard.shape, manifest.protocol
    whole = [size for size in (*shape[:2], *shape[3:]) if isinstance(size, int)]
    if heard.name != "cross" or len(shape) != 4 or len(whole) != 3 or whole[0] % 2:
        yield fault(
            path,
            f"output '{heard.name}' is {shape}, 'cross' of two rows a layer, heads, a free size and a head's width is "
            "needed",
        )
        return
    if whole[0] > (most := len(manifest.components["backbone"].inputs)):  # before a name is made for each
        yield fault(path, f"output 'cross' has {whole[0]} rows, each an input of the backbone, which has {most}")
        return
    yield from _backbone_faults(manifest, [f"cross.{row}" for row in range(whole[0])])
    begun = len(protocol.start) + bool(protocol.languages) + bool(protocol.tasks) + len(protocol.start_tail)
    if not begun:
        yield fault("protocol.start", "is empty, decoding starts from a token")
    if begun > protocol.context_tokens:
        yield fault(
            "protocol.context_tokens", f"is {protocol.context_tokens}, the start of an answer alone takes {begun}"
        )


def _prefix_faults(manifest: Manifest, heard: TensorSpec) -> Faults:
    """Yield for a backbone in whose token stream sound stands."""
    yield from _backbone_faults(manifest, ())
    if differing := widths(heard.shape, (manifest.embedding.width,)):
        yield fault(
            "components.adapter", f"output '{heard.name}' is {differing[0]} wide, the token table {differing[1]}"
        )


def _backbone_faults(manifest: Manifest, sound: Sequence[str]) -> Faults:
    backbone, path = manifest.components["backbone"], "components.backbone"
    inputs = ("embeds", "start", "logit_rows", *sound)
    yield from signature_faults(path, backbone, inputs, ("logits",), ("experts_per_token",))
    yield from held_faults(path, backbone, ("context",))
    if differing := widths(shape_of(backbone.inputs, "embeds"), (manifest.embedding.width,)):
        yield fault(path, f"input 'embeds' is {differing[0]} wide, the token table {differing[1]}")


ATTENTION: Mapping[str, Callable[[Manifest, TensorSpec], Faults]] = {"cross": _cross_faults, "prefix": _prefix_faults}
"""By the manifest's ``protocol.attention``; given the adapter's one output that is no state."""
