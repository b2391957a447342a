"""The router of token choice: scores, capacity, losses, the shared expert."""

import keras
from keras import ops

from keras_moe import checks
from keras_moe import grouping
from keras_moe import losses
from keras_moe import routing
from keras_moe import scoring
from keras_moe.layers.base import MoELayer
from keras_moe.layers.experts import FeedForwardExperts
from keras_moe.processes import joint_batch
from keras_moe.scalars import keep

# Arguments that `prepare_options` checks and keeps.
OPTIONS = (
    "normalize_gates",
    "scoring",
    "router_bias",
    "routed_scaling",
    "num_expert_groups",
    "top_groups",
    "balance_bias_rate",
    "shared_intermediate_dim",
    "shared_gate",
    "jitter",
    "eval_capacity_factor",
    "balance_over",
)
# Arguments that only experts with a capacity have, and their defaults.
CAPACITY_ONLY = {
    "capacity_rounding": "ceil",
    "capacity_multiple_of": 1,
    "batch_priority": False,
    "eval_capacity_factor": None,
}


class TokenRouter(MoELayer):
    """The router of `TokenChoiceMoE`, which documents its arguments."""

    def prepare_options(self, **options):
        """Check and keep the arguments in `OPTIONS`."""
        for name in ("normalize_gates", "router_bias", "shared_gate"):
            setattr(self, name, checks.flag(name, options[name]))
        self.scoring = checks.choice(
            "scoring", options["scoring"], scoring.SCORINGS
        )
        self.balance_over = checks.choice(
            "balance_over", options["balance_over"], ("first", "all")
        )
        self.routed_scaling = checks.real(
            "routed_scaling", options["routed_scaling"], exclusive=True
        )
        self.balance_bias_rate = checks.real(
            "balance_bias_rate", options["balance_bias_rate"]
        )
        self.jitter = checks.rate("jitter", options["jitter"])
        for name in (
            "num_expert_groups",
            "top_groups",
            "shared_intermediate_dim",
        ):
            value = checks.optional_integer(name, options[name])
            setattr(self, name, value)
        self.eval_capacity_factor = checks.optional_real(
            "eval_capacity_factor",
            options["eval_capacity_factor"],
            exclusive=True,
        )
        scoring.check_choice(
            self.num_experts,
            self.top_k,
            self.num_expert_groups,
            self.top_groups,
        )
        if self.shared_gate and self.shared_intermediate_dim is None:
            raise ValueError(
                "shared_gate must be False where shared_intermediate_dim is "
                "None; received True."
            )
        if self.capacity_factor is None:
            self.least_axes = 2
            checks.at_defaults(
                self,
                CAPACITY_ONLY,
                "where capacity_factor=None, which drops no token",
            )
        self.shared_expert = self._make_shared_expert()

    def _make_shared_expert(self):
        if self.shared_intermediate_dim is None:
            return None
        return FeedForwardExperts(
            1,
            self.shared_intermediate_dim,
            **self.expert_options(),
            dtype=self.dtype_policy,
            name="shared_expert",
        )

    def enable_lora(self, rank: int, **options):
        super().enable_lora(rank, **options)
        if self.shared_expert is not None:
            self.shared_expert.enable_lora(rank, **options)

    # === Weights ===

    def build_router(self, features):
        self.router_kernel = self.add_router_weight(
            "router_kernel",
            (features, self.num_experts),
            self.router_initializer,
        )
        one_each = (self.num_experts,)
        self.router_bias_weight = None
        if self.router_bias:  # the flag; the weight has the public name
            self.router_bias_weight = self.add_router_weight(
                "router_bias", one_each, "zeros"
            )
        self.balance_bias = None
        if self.balance_bias_rate > 0:
            self.balance_bias = self.add_weight(
                name="balance_bias",
                shape=one_each,
                initializer="zeros",
                trainable=False,
                dtype=self.router_dtype,
                autocast=False,
                aggregation="mean",
            )
        self.shared_gate_kernel = None
        if self.shared_expert is not None:
            self.shared_expert.build((None, 1, None, features))
            if self.shared_gate:
                self.shared_gate_kernel = self.add_router_weight(
                    "shared_gate", (features, 1), self.router_initializer
                )

    def batch_states(self) -> list:
        return [] if self.balance_bias is None else [self.balance_bias]

    # === From tokens to a plan ===

    def call(self, inputs, mask=None, training=None):
        outputs = super().call(inputs, mask=mask, training=training)
        if self.shared_expert is None:
            return outputs
        return outputs + self._shared_outputs(inputs, mask, training)

    def group(self, tokens, mask, training):
        if self.group_size is None:
            return super().group(tokens, mask, training)
        return grouping.runs(tokens, mask, self.group_size)

    def route(self, tokens, mask, training):
        logits = noisy_logits = self.logits(tokens, training)  # (G,T,E)
        if training and self.noise_std > 0:
            std = self.noise_std / self.num_experts
            noise = self.noise(ops.shape(logits), std)
            noisy_logits = logits + noise
        bias = self.balance_bias
        choice = routing.choose_experts(
            noisy_logits,
            self.top_k,
            scoring=self.scoring,
            normalize_gates=self.normalize_gates,
            routed_scaling=self.routed_scaling,
            balance_bias=None if bias is None else ops.convert_to_tensor(bias),
            num_expert_groups=self.num_expert_groups,
            top_groups=self.top_groups,
            mask=mask,
        )
        self.add_losses(logits, noisy_logits, choice, mask)
        if training and self.trainable and bias is not None:
            (expert,) = joint_batch(self, choice.expert)
            bias.assign(
                scoring.moved_balance_bias(
                    ops.convert_to_tensor(bias),
                    expert,
                    self.balance_bias_rate,
                )
            )
        if self.capacity_factor is None:
            return routing.drop_none(choice, self.num_experts, mask)
        return routing.fill(
            choice,
            self.num_experts,
            self.capacity(ops.shape(tokens)[1], training),
            batch_priority=self.batch_priority,
            mask=mask,
        )

    def logits(self, tokens, training=False):
        """Router logits tokens · router_kernel + bias, in float32."""
        if training and self.jitter > 0:
            tokens = ops.cast(tokens, self.router_dtype)
            tokens = tokens * keras.random.uniform(
                ops.shape(tokens),
                1.0 - self.jitter,
                1.0 + self.jitter,
                dtype=self.router_dtype,
                seed=self.seed_generator,
            )
        logits = super().logits(tokens)
        if self.router_bias_weight is not None:
            logits = logits + self.router_bias_weight
        return logits

    def capacity(self, num_tokens, training=False):
        """S, the capacity slots of each expert, for groups of `num_tokens`."""
        factor = self.capacity_factor
        if not training and self.eval_capacity_factor is not None:
            factor = self.eval_capacity_factor
        return routing.expert_capacity(
            num_tokens,
            self.num_experts,
            factor,
            top_k=self.top_k,
            rounding=self.capacity_rounding,
            multiple_of=self.capacity_multiple_of,
        )

    def add_losses(self, logits, noisy_logits, choice, mask):
        """Hand the auxiliary losses that have a weight to Keras."""
        if self.importance_loss > 0:
            scores = choice.scores
            if noisy_logits is not logits:
                scores = scoring.score(logits, self.scoring)
            shares = scoring.shares(scores, self.scoring)
            loss = losses.importance_loss(shares, mask)
            self.add_loss(self.importance_loss * loss)
        if self.load_loss > 0 and noisy_logits is not logits:
            std = self.noise_std / self.num_experts
            loss = losses.load_loss(logits, noisy_logits, std, self.top_k, mask)
            self.add_loss(self.load_loss * loss)
        if self.balance_loss > 0:
            expert = choice.expert
            if self.balance_over == "first":
                expert = expert[:, :, :1]
            shares = scoring.shares(choice.scores, self.scoring)
            loss = losses.balance_loss(shares, mask, expert)
            self.add_loss(self.balance_loss * loss)
        if self.z_loss > 0:
            self.add_loss(self.z_loss * losses.z_loss(logits, mask))

    # === The shared expert ===

    def _shared_outputs(self, inputs, mask, training):
        """Output of the shared expert; 0 where masked."""
        if mask is not None:
            mask = ops.convert_to_tensor(mask)  # checked before
            mask = ops.cast(mask, "bool")[..., None]
            inputs = keep(mask, inputs)
        shape = ops.shape(inputs)
        rows = ops.reshape(inputs, (-1, 1, 1, shape[-1]))
        outputs = self.shared_expert(rows, training=training)
        outputs = ops.reshape(outputs, shape)
        if self.shared_gate_kernel is not None:
            tokens = ops.cast(inputs, self.router_dtype)
            logits = ops.matmul(tokens, self.shared_gate_kernel)
            gate = ops.cast(ops.sigmoid(logits), outputs.dtype)
            outputs = outputs * gate
        return outputs if mask is None else keep(mask, outputs)
