"""`ort-cuda`: onnxruntime's fused ops in float16, for its CUDA provider."""
