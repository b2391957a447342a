"""Router of Mixture of Depths: which tokens pass, and how that is learned."""

import keras
from keras import ops

from keras_moe import passing
from keras_moe import routing
from keras_moe.processes import joint_batch

INFERENCE = ("top_k", "predictor", "threshold")


class DepthRouter:
    """Router of a layer that a share of a sequence's tokens passes.

    The layer has `inference`, `capacity`, `predictor_dim`, `predictor_loss`,
    `threshold_momentum` and `router_initializer`.
    """

    inference: str
    joint = None  # between processes: `torch_exchanges.Joint`

    def batch_states(self) -> list:
        """List the variables that a call in training moves by its batch."""
        return [self.threshold] if self.inference == "threshold" else []

    def build_router(self, features):
        """Create the weights that choose tokens."""
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        options = {"dtype": wide, "autocast": False}
        self.router_kernel = self.add_weight(
            name="router_kernel",
            shape=(features, 1),
            initializer=self.router_initializer,
            **options,
        )
        if self.inference == "threshold":
            self.threshold = self.add_weight(
                name="threshold",
                shape=(1,),
                initializer="zeros",
                trainable=False,
                aggregation="mean",
                **options,
            )
        if self.inference == "predictor":
            hidden = self.predictor_dim or max(features // 2, 1)
            self.predictor_hidden = keras.layers.Dense(
                hidden, "silu", dtype=wide, name="predictor_hidden"
            )
            self.predictor_output = keras.layers.Dense(
                1, dtype=wide, name="predictor_output"
            )
            self.predictor_hidden.build((None, None, features))
            self.predictor_output.build((None, None, hidden))

    def scores(self, tokens):
        """Router logits (B,T) of tokens (B,T,D)."""
        wide = ops.cast(tokens, self.router_kernel.dtype)
        return ops.matmul(wide, self.router_kernel)[:, :, 0]

    def choose(self, tokens, mask=None):
        """Choose the tokens that pass, each by itself, outside of training.

        Args:
            tokens: (B,T,D).
            mask: `None` or Boolean (B,T). A `False` token does not pass.

        Returns:
            The scores (B,T), and the choice, Boolean (B,T).
        """
        scores = self.scores(tokens)
        if self.inference == "threshold":
            choice = passing.levels(scores) > self.threshold
        else:
            choice = self._predicted(tokens) > 0
        if mask is not None:
            choice = ops.logical_and(choice, mask)
        return scores, choice

    def _predicted(self, tokens):
        """The predictor's logits (B,T)."""
        wide = ops.cast(tokens, self.router_kernel.dtype)
        hidden = self.predictor_hidden(ops.stop_gradient(wide))
        return self.predictor_output(hidden)[:, :, 0]

    def learn(self, tokens, scores, rows, mask):
        """Move the threshold, or add the predictor's loss."""
        if self.inference == "threshold":
            levels, known = joint_batch(self, passing.levels(scores), mask)
            self.threshold.assign(
                routing.moved_thresholds(
                    ops.convert_to_tensor(self.threshold),
                    levels[:, :, None],
                    self.capacity,
                    self.threshold_momentum,
                    known,
                )
            )
        if self.inference == "predictor":
            loss = passing.choice_loss(self._predicted(tokens), rows, mask)
            self.add_loss(self.predictor_loss * loss)
