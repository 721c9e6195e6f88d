"""Where tensors, configs and tokenizers come from: checkpoints in every container that EdgeKit reads."""
