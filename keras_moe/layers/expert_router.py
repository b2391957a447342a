"""The router of Expert Choice: top-k or thresholds, and capacity."""

from keras import ops

from keras_moe import checks
from keras_moe import grouping
from keras_moe import ops as moe_ops
from keras_moe import routing
from keras_moe.layers.base import MoELayer
from keras_moe.plans import softmax
from keras_moe.processes import joint_batch

SELECTIONS = ("top_k", "threshold", "top_k_then_threshold")
# Arguments that a selection does not use, and their defaults.
UNUSED = {
    "top_k": {"threshold_momentum": 0.99},
    "threshold": {
        "group_size": None,
        "capacity_multiple_of": 1,
        "capacity_rounding": "round",
    },
    "top_k_then_threshold": {},
}


class ExpertRouter(MoELayer):
    """The router of `ExpertChoiceMoE`, which documents its arguments."""

    def check_selection(self):
        """Raise an error for arguments that `selection` does not use."""
        if self.selection == "top_k_then_threshold":  # plans of both kinds
            grouped = moe_ops.names("grouped")
            names = [n for n in moe_ops.names("hard") if n in grouped]
            checks.choice("implementation", self.implementation, names)
        checks.at_defaults(
            self, UNUSED[self.selection], f"where selection={self.selection!r}"
        )

    def build_router(self, features):
        self.router_kernel = self.add_router_weight(
            "router_kernel",
            (features, self.num_experts),
            self.router_initializer,
        )
        if self.router_bias:  # the flag; the weight has the public name
            self.router_bias_weight = self.add_router_weight(
                "router_bias", (self.num_experts,), "zeros"
            )
        self.thresholds = None
        if self.selection != "top_k":
            self.thresholds = self.add_weight(
                name="thresholds",
                shape=(self.num_experts,),
                initializer="zeros",
                trainable=False,
                dtype=self.router_dtype,
                autocast=False,
                aggregation="mean",
            )

    def batch_states(self) -> list:
        return [] if self.thresholds is None else [self.thresholds]

    def by_thresholds(self, training):
        """Whether this call chooses by thresholds."""
        then = self.selection == "top_k_then_threshold" and not training
        return then or self.selection == "threshold"

    def group(self, tokens, mask, training):
        if self.group_size is None or self.by_thresholds(training):
            return super().group(tokens, mask, training)
        return grouping.runs(tokens, mask, self.group_size)

    def route(self, tokens, mask, training):
        logits = self.logits(tokens)  # (G,T,E)
        if self.router_bias:
            logits = logits + self.router_bias_weight
        gates = clean = self.gates(logits, mask)
        if training and self.noise_std > 0:
            std = self.noise_std / self.num_experts
            logits = logits + self.noise(ops.shape(logits), std)
            gates = self.gates(logits, mask)
        plan = self._plan(gates, mask, training)
        # After the plan: where a call runs at once, PyTorch and TensorFlow
        # assign into the array that the plan is computed from.
        if self.thresholds is not None and training and self.trainable:
            self._move_thresholds(clean, mask)
        return plan

    def _plan(self, gates, mask, training):
        if self.by_thresholds(training):
            return routing.threshold_choice(
                gates,
                ops.convert_to_tensor(self.thresholds),
                max_experts_per_token=self.max_experts_per_token,
                mask=mask,
            )
        return routing.expert_choice(
            gates,
            self.capacity(ops.shape(gates)[1]),
            mask=mask,
            max_experts_per_token=self.max_experts_per_token,
        )

    def _move_thresholds(self, gates, mask):
        gates, mask = joint_batch(self, gates, mask)
        self.thresholds.assign(
            routing.moved_thresholds(
                ops.convert_to_tensor(self.thresholds),
                gates,
                self.capacity_factor / self.num_experts,
                self.threshold_momentum,
                mask,
            )
        )

    def gates(self, logits, mask):
        """Gates (G,T,E); a masked token may have some, and gets no slot."""
        return softmax(logits, axis=-1)

    def capacity(self, num_tokens):
        """S, the capacity slots of each expert, for groups of `num_tokens`."""
        capacity = routing.expert_capacity(
            num_tokens,
            self.num_experts,
            self.capacity_factor,
            rounding=self.capacity_rounding,
            multiple_of=self.capacity_multiple_of,
        )
        if not isinstance(num_tokens, int):
            return capacity
        cap = self.max_experts_per_token
        # A cap of `capacity_factor` or more fits all inputs but short ones,
        # for which S was rounded up; then some slots stay empty.
        if cap is None or cap >= self.capacity_factor:
            return capacity
        if cap * num_tokens < capacity * self.num_experts:
            raise ValueError(
                "max_experts_per_token must leave enough tokens to fill the "
                f"experts; received max_experts_per_token={cap}, and "
                f"{num_tokens} tokens cannot fill {self.num_experts} experts "
                f"of {capacity} capacity slots."
            )
        return capacity
