"""Two towers, of images and of texts, that share a space of embeddings."""
