"""Expert Choice over a whole batch, as llm-random's language models have it."""

import math

import keras
from keras import ops

from keras_moe import checks
from keras_moe import layers
from keras_moe import routing
from keras_moe.plans import softmax
from keras_moe.scalars import MASKED
from keras_moe.scalars import keep

# Arguments of ExpertChoiceMoE that llm-random's layer has no like of.
NOT_OFFERED = (
    "expert",
    "group_size",
    "max_experts_per_token",
    "noise_std",
    "capacity_multiple_of",
    "capacity_rounding",
    "router_bias",
    "selection",
    "threshold_momentum",
    "kernel_regularizer",
    "bias_regularizer",
    "kernel_constraint",
    "bias_constraint",
)


@keras.saving.register_keras_serializable(package="keras_moe")
class BatchExpertChoice(layers.ExpertChoiceMoE):
    """Gives each expert the tokens it values most, of all the batch's tokens.

    Differs from `ExpertChoiceMoE` in who competes, in what the gates are a
    softmax over, and in a LayerNorm behind the experts. An example's output
    depends on its batch-mates and, with `group_axis="all"`, on later tokens.

    Args:
        num_experts: E, the number of experts.
        capacity_factor: how many experts take a token on average; llm-random
            gives the share of tokens that one expert takes, this / E. An
            expert takes round(share · T) of T tokens that compete, halves to
            even, at least 1 and at most T.
        group_axis: who competes: `"all"` tokens of the batch, or those at
            one position of the `"batch"`.
        softmax_over: what the gates sum to one over, the `"tokens"` that
            compete or the `"experts"`.
        output_norm: whether the layer's output is normalised.
        epsilon: of that norm.
        intermediate_dim: F, hidden features of each expert's MLP.

    The other arguments are those of `ExpertChoiceMoE`.
    """

    def __init__(
        self,
        num_experts,
        capacity_factor,
        *,
        group_axis="all",
        softmax_over="tokens",
        output_norm=True,
        epsilon=1e-5,
        intermediate_dim=None,
        activation="gelu",
        gated=False,
        use_bias=True,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        router_initializer="lecun_normal",
        implementation="auto",
        name=None,
        dtype=None,
        trainable=True,
    ):
        super().__init__(
            num_experts,
            capacity_factor,
            intermediate_dim=intermediate_dim,
            activation=activation,
            gated=gated,
            use_bias=use_bias,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            router_initializer=router_initializer,
            implementation=implementation,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.group_axis = checks.choice(
            "group_axis", group_axis, ("all", "batch")
        )
        self.softmax_over = checks.choice(
            "softmax_over", softmax_over, ("tokens", "experts")
        )
        self.output_norm = checks.flag("output_norm", output_norm)
        self.epsilon = checks.real("epsilon", epsilon, exclusive=True)

    def build(self, input_shape):
        self.norm = None
        if self.output_norm:
            self.norm = keras.layers.LayerNormalization(
                epsilon=self.epsilon,
                dtype=self.dtype_policy,
                name="output_norm",
            )
            self.norm.build(input_shape)
        super().build(input_shape)

    def call(self, inputs, mask=None, training=None):
        outputs = super().call(inputs, mask=mask, training=training)
        return outputs if self.norm is None else self.norm(outputs)

    def group(self, tokens, mask, training):
        shape = ops.shape(tokens)
        if self.group_axis == "batch":  # (B,N,D) -> (N,B,D)
            tokens = ops.transpose(tokens, (1, 0, 2))
            mask = None if mask is None else ops.transpose(mask)
            return tokens, mask, lambda out: ops.transpose(out, (1, 0, 2))
        tokens = ops.reshape(tokens, (1, -1, shape[-1]))
        mask = None if mask is None else ops.reshape(mask, (1, -1))
        return tokens, mask, lambda out: ops.reshape(out, shape)

    def capacity(self, num_tokens):
        """S, the slots of each expert, for groups of `num_tokens`."""
        share = self._share()
        if not isinstance(num_tokens, int):
            # With one expert the factor is the share itself.
            return routing.expert_capacity(
                num_tokens, 1, share, rounding="round"
            )
        return min(max(round(share * num_tokens), 1), num_tokens)

    def _share(self):
        """The share of tokens that one expert takes, as llm-random has it.

        It was multiplied by E for `capacity_factor`, and dividing does not
        always bring the same number back: 0.05 · 6 / 6 is a little more. Of 50
        tokens that share would be more than 2.5, and an expert would take 3
        instead of 2. So where only an error of rounding is between the
        quotient and a decimal number, that number is meant.
        """
        quotient = self.capacity_factor / self.num_experts
        decimal = round(quotient, 12)
        near = math.isclose(decimal, quotient, rel_tol=1e-15)
        return decimal if near else quotient

    def gates(self, logits, mask):
        if self.softmax_over == "experts":
            return super().gates(logits, mask)
        if mask is not None:
            logits = keep(mask[:, :, None], logits, MASKED)
        return softmax(logits, axis=1)

    def get_config(self):
        config = super().get_config()
        for name in NOT_OFFERED:
            del config[name]
        config.update(
            group_axis=self.group_axis,
            softmax_over=self.softmax_over,
            output_norm=self.output_norm,
            epsilon=self.epsilon,
        )
        return config
