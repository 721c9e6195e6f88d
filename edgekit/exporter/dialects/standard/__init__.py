"""`standard`: plain ONNX and symmetric Q/DQ, for TensorRT."""
