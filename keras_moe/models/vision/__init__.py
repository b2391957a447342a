"""Vision transformers with mixtures of experts, and image classification."""
