"""Numbers that hold on every backend."""

LIMIT = 40.0  # exp(±40), its sums and their gradients are far inside float32
MASKED = -1e30  # what a masked logit is where it stays a logit
LOWEST = -1e29  # the least logsumexp: exp(MASKED - LOWEST) is zero
