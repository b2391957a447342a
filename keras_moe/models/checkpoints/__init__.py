"""Files of weights: formats, checks, and the names of each weight."""
