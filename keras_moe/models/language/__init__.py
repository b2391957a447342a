"""Language models with mixtures of experts, and their tasks."""
