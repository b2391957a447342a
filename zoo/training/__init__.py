"""Training of recipes: runs, their states, and what follows them."""
