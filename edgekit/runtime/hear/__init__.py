"""What is heard: resampling, the gate and its detectors, log-mel, and the listener (encoder and adapter)."""
