"""Tasks of recipes: models, batches and metrics of images and of text."""
