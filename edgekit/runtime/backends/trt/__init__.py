"""TensorRT, full or for RTX: plans are built, kept beside a bundle, and run."""
