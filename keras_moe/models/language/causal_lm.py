"""Text generation with `MoTBackbone`."""

import itertools

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_moe import checks
from keras_moe.models import task_inputs
from keras_moe.models.checkpoints import mot
from keras_moe.models.checkpoints import tokenizer_files
from keras_moe.models.language import padding
from keras_moe.models.language import resizing
from keras_moe.models.language import task
from keras_moe.models.language.backbone import MoTBackbone
from keras_moe.models.language.causal_lm_preprocessor import (
    MoTCausalLMPreprocessor,
)
from keras_moe.models.presets import finding
from keras_moe.models.presets import loading


@keras.saving.register_keras_serializable(package="keras_moe")
class MoTCausalLM(task.LanguageTask, keras_hub.models.CausalLM):
    """Tells the next token of a text, and so continues it.

    **A text's output, and its continuation, depend on its batch-mates** where
    the backbone mixes over the batch; `inference_mixing`, which can be set on
    a model that is loaded, makes them independent. What that costs depends on
    the model. The preset `mot_tiny_shakespeare` (32 experts, groups of 8;
    32 texts of 128 bytes, PyTorch on a CPU; `python -m zoo mixing`):

        mode        bits per byte of held-out plays   time of a forward pass
        "group"     2.451                             1
        "self"      2.758                             4.7
        "argmax"    2.512                             6.0

    Args:
        backbone: a `MoTBackbone` with `causal=True`.
        preprocessor: a `MoTCausalLMPreprocessor`, or `None` for token ids.
        **kwargs: `name` and `compile` of `keras_hub.models.Task`.

    Inputs: texts or, without a preprocessor, a dictionary of `token_ids` and
    `padding_mask` (batch, tokens), integers. Output: (batch, tokens,
    vocabulary_size), logits of the next token in the compute dtype.

    With `router="expert_choice"` tokens of a text compete, the later ones too.
    Such a model is causal by thresholds (`"selection": "threshold"` in
    `router_options`, or `"top_k_then_threshold"`, outside of training), or
    where every expert takes all tokens (`capacity_factor` = E); otherwise
    `generate` refuses.

    Raises:
        ValueError: for a backbone that is not causal, or a preprocessor of
            longer sequences or a larger vocabulary.

    Example:

    >>> from keras_moe import models
    >>> backbone = models.MoTBackbone(
    ...     vocabulary_size=257, num_layers=1, num_heads=2, hidden_dim=16,
    ...     mlp_dim=32, max_sequence_length=12,
    ...     router_options={"num_experts": 4, "group_size": 2})
    >>> preprocessor = models.MoTCausalLMPreprocessor(
    ...     models.MoTTokenizer.byte_level(), sequence_length=12)
    >>> model = models.MoTCausalLM(backbone, preprocessor)
    >>> model.inference_mixing = "argmax"  # independent of batch-mates
    >>> texts = model.generate(["Once", "I am"], max_length=8)
    >>> [text[:4] for text in texts]
    ['Once', 'I am']
    """

    backbone_cls = MoTBackbone
    preprocessor_cls = MoTCausalLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        loading.check_task_arguments(self, kwargs)
        task.check_backbone(backbone, MoTBackbone)
        if not backbone.causal:
            raise ValueError(
                "backbone must have causal=True, as a token must not read the "
                "ones that it is to tell; received one with causal=False."
            )
        task.check_preprocessor(preprocessor, backbone)
        self.backbone = backbone
        self.preprocessor = preprocessor
        hidden = backbone(backbone.input)
        super().__init__(
            inputs=backbone.input,
            outputs=backbone.token_embedding(hidden, reverse=True),
            **kwargs,
        )

    @classmethod
    def from_preset(cls, preset, load_weights: bool = True, **kwargs):
        """A model with the weights of a preset, or of the `mot` format.

        Args:
            preset: as in `MoTBackbone.from_preset`. With the `mot` format,
                GPT-2's tokenizer files (`vocab.json` and `merges.txt`, or
                `tokenizer.json`), if they are there, make the preprocessor;
                without them it is `None`.
            load_weights: whether to read the weights, or start new ones.
            **kwargs: `dtype`, `backbone`, and arguments of the class, instead
                of the saved ones; `max_sequence_length` and
                `vocabulary_size` as in `MoTBackbone.from_preset`. The
                preset's preprocessor then makes texts of
                `max_sequence_length`.

        Raises:
            ValueError: where a file is missing, damaged or of another model.
        """
        folder = finding.resolve(preset)
        if not mot.recognises(folder):
            return super().from_preset(folder, load_weights, **kwargs)
        sizes = task.sizes_of(kwargs)
        checkpoint = mot.MoTCheckpoint(folder)
        follow = "preprocessor" not in kwargs
        if follow:
            kwargs["preprocessor"] = cls.published_preprocessor(
                folder, checkpoint.backbone
            )
        if "backbone" not in kwargs:
            kwargs["backbone"] = MoTBackbone.from_published(
                checkpoint, load_weights, dtype=kwargs.pop("dtype", None)
            )
        return resizing.task(cls(**kwargs), sizes, follow)

    @classmethod
    def published_preprocessor(cls, folder, backbone: dict):
        """The preprocessor of GPT-2's tokenizer files, `None` without them.

        Args:
            folder: with the files, see `mot_tokenizer_files.read`.
            backbone: arguments of the backbone that is to read the ids.
        """
        found = tokenizer_files.read(folder, backbone["vocabulary_size"])
        if found is None:
            return None
        vocabulary, merges, options = found
        tokenizer_cls = cls.preprocessor_cls.tokenizer_cls
        return cls.preprocessor_cls(
            tokenizer_cls(vocabulary, merges, **options),
            sequence_length=backbone["max_sequence_length"],
        )

    def call(self, inputs, training=None, mask=None):
        """Logits (batch, tokens, vocabulary) of `token_ids`, `padding_mask`.

        **A text's logits depend on its batch-mates** where the backbone mixes
        over the batch: always with `training=True`, otherwise with
        `inference_mixing` `"group"` (the default) or `"discrete"`.
        """
        return super().call(inputs, training=training, mask=mask)

    def generate(
        self,
        inputs,
        max_length: int | None = None,
        stop_token_ids="auto",
        strip_prompt: bool = False,
    ):
        """Continue each prompt, token by token, with the compiled sampler.

        **A continuation depends on the batch-mates** where the backbone mixes
        over the batch, `inference_mixing` `"group"` (the default) or
        `"discrete"`: the same prompt beside others, or alone, goes on
        differently. Set `inference_mixing` to `"self"` or `"argmax"` for
        results of each prompt by itself; then the lengths of the others and
        the padding do not matter either.

        Args:
            inputs: a text or a list of texts; without a preprocessor a
                dictionary of `token_ids` and `padding_mask` (batch, tokens),
                whose length is that of the result. Prompts may be padded on
                either side: padding is not attended to and takes no position,
                so a prompt goes on as it does alone.
            max_length: tokens of prompt and continuation together, the start
                token too; by default `sequence_length` of the preprocessor.
                Longer prompts are cut.
            stop_token_ids: ids that end a text: `"auto"`, the tokenizer's end
                token; a tuple; or `None`, to go on to `max_length`. An id
                that the model never writes ends nothing.
            strip_prompt: whether to return the continuation alone.

        Returns:
            A text or a list of texts; without a preprocessor a dictionary as
            in `inputs`, with the mask of what has been written.

        Raises:
            ValueError: for no prompt, a prompt without any token, ids outside
                the vocabulary, or more tokens than the backbone has positions;
                for other arguments that do not fit; and for a router with
                which earlier tokens depend on later ones.
        """
        checks.optional_integer("max_length", max_length)
        checks.flag("strip_prompt", strip_prompt)
        stop_token_ids = task.check_stop_tokens(
            stop_token_ids, self.preprocessor
        )
        if isinstance(self.preprocessor, self.preprocessor_cls):
            task_inputs.check_texts("inputs", inputs, one=True)
            if isinstance(inputs, np.ndarray):
                inputs = inputs.tolist()
            task.check_length(
                "max_length, or sequence_length of the preprocessor,",
                max_length or self.preprocessor.sequence_length,
                self.backbone,
            )
        task.check_generates(self.backbone)
        return super().generate(
            inputs, max_length, stop_token_ids, strip_prompt
        )

    def make_generate_function(self):
        """The compiled `generate_step`, behind checks of what it is given."""
        self.follow_mixing()
        generate = super().make_generate_function()

        def checked(inputs, stop_token_ids=None):
            task.check_prompts(inputs, self.backbone)
            return generate(inputs, stop_token_ids=stop_token_ids)

        return checked

    def forget_compiled(self) -> None:
        """Have Keras compile anew what is computed outside training."""
        super().forget_compiled()
        self.generate_function = None

    def call_with_cache(
        self, token_ids, cache, cache_update_index, padding_mask=None
    ):
        """Logits and features of ids at one place, and the cache with them.

        Args:
            token_ids: (B,Q) integers.
            cache: (B,L,2,T,N,H), keys and values.
            cache_update_index: the place of the first id.
            padding_mask: `None` or (B,T), which places may be attended to.
        """
        hidden, cache = self.backbone.call_with_cache(
            token_ids, cache, cache_update_index, padding_mask
        )
        logits = self.backbone.token_embedding(hidden, reverse=True)
        return logits, hidden, cache

    def generate_step(self, inputs, stop_token_ids=None):
        """Continue a batch of prompts; compiled by `generate`."""
        token_ids = inputs["token_ids"]
        padding_mask = ops.cast(inputs["padding_mask"], "int32")
        batch, length = ops.shape(token_ids)[0], ops.shape(token_ids)[1]
        # Padding before a prompt, or inside it, is not attended to, and is
        # not written over: it lies ahead of the prompt's end.
        visible = padding.attended(padding_mask)
        counts = ops.cumsum(padding_mask, axis=-1)
        ahead = (counts - padding_mask) < counts[:, -1:]
        prompts = token_ids
        if stop_token_ids is not None:
            # The sampler would take padding with a stop token for an end.
            free = (i for i in itertools.count() if i not in stop_token_ids)
            token_ids = ops.where(ahead, token_ids, next(free))
        cache = self.backbone.empty_cache(batch, length)
        _, hidden, cache = self.call_with_cache(token_ids, cache, 0, visible)

        def step(prompt, cache, index):
            rows = ops.shape(prompt)[0]  # those of a prompt's beams together
            last = ops.slice(prompt, [0, index - 1], [rows, 1])
            logits, hidden, cache = self.call_with_cache(
                last,
                cache,
                index - 1,
                ops.repeat(visible, rows // batch, axis=0),
            )
            return logits[:, 0], hidden[:, 0], cache

        token_ids = self.sampler(
            next=step,
            prompt=token_ids,
            cache=cache,
            index=ops.min(ops.sum(ops.cast(ahead, "int32"), axis=-1)),
            mask=ahead,
            stop_token_ids=stop_token_ids,
            hidden_states=hidden,
            model=self,
        )
        whole = visible
        if stop_token_ids is not None:
            stopped = padding.up_to_the_first(token_ids, stop_token_ids, ahead)
            whole = ops.logical_and(visible, stopped)
            token_ids = ops.where(whole, token_ids, prompts)
        return {"token_ids": token_ids, "padding_mask": whole}
