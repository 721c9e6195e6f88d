"""The export side: checkpoints in, bundles out. May use onnx and safetensors' format; never torch or transformers."""
