"""Mixing of tokens outside training, read and set on a whole model."""

from keras_moe import checks
from keras_moe.layers.mixture_of_tokens import MIXING

ROUTER = "mixture_of_tokens"


def forget_compiled(model) -> None:
    """Have Keras compile anew what a model computes outside training."""
    model.predict_function = None
    model.test_function = None


class MixingBackbone:
    """A backbone whose `inference_mixing` can be read and set.

    It has `router`, `router_options` and `blocks`.
    """

    @property
    def inference_mixing(self) -> str | None:
        """Mode of mixing outside training; `None` without such layers.

        `"group"` mixes as in training, so that **an example's output depends
        on its batch-mates**; `"discrete"` does too. `"self"` and `"argmax"`
        are independent of them; see `keras_moe.layers.MixtureOfTokens`.

        Setting it changes every Mixture of Tokens layer, and the config that
        presets are saved with. What the model and the tasks of `keras_moe` on
        it have compiled is compiled anew; functions that others compiled keep
        what they were compiled with.
        """
        if self.router != ROUTER:
            return None
        return self.router_options.get("inference_mixing", MIXING[0])

    @inference_mixing.setter
    def inference_mixing(self, value: str):
        if self.router != ROUTER:
            raise ValueError(
                f"inference_mixing can be set where router='{ROUTER}'; "
                f"received {value!r} for a model with router={self.router!r}."
            )
        checks.choice("inference_mixing", value, MIXING)
        change = {"inference_mixing": value}
        self.router_options = {**self.router_options, **change}
        for block in self.blocks:
            if block.router == ROUTER:
                block.router_options = {**block.router_options, **change}
                block.mlp.inference_mixing = value
        forget_compiled(self)


class MixingTask:
    """A task that hands `inference_mixing` on to its backbone."""

    _compiled_mixing = None

    @property
    def inference_mixing(self) -> str | None:
        """`inference_mixing` of the backbone; see there."""
        return self.backbone.inference_mixing

    @inference_mixing.setter
    def inference_mixing(self, value: str):
        self.backbone.inference_mixing = value

    def follow_mixing(self) -> None:
        """Forget what was compiled before the backbone's mixing changed."""
        if self._compiled_mixing != self.backbone.inference_mixing:
            self._compiled_mixing = self.backbone.inference_mixing
            self.forget_compiled()

    def forget_compiled(self) -> None:
        """Have Keras compile anew what is computed outside training."""
        forget_compiled(self)

    def make_predict_function(self, force=False):
        self.follow_mixing()
        return super().make_predict_function(force)

    def make_test_function(self, force=False):
        self.follow_mixing()
        return super().make_test_function(force)
