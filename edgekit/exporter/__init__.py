"""The export side: checkpoints in, bundles out. May use onnx and safetensors' format; never torch or transformers."""

import sys

from edgekit.errors import MissingPackageError

if sys.version_info < (3, 11):
    raise MissingPackageError(
        f"Python {sys.version_info[0]}.{sys.version_info[1]}: runs bundles only, exporting and comparing with a "
        "checkpoint need 3.11 or later; export on another computer and copy the bundle here"
    )
