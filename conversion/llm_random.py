"""llm-random's checkpoints of language models, into presets."""

from conversion import language
from conversion import streaming
from conversion import verify as verification
from conversion.errors import ConversionError
from conversion.formats import torch_file
from conversion.llm_random_plan import Options
from conversion.llm_random_plan import deduce
from keras_moe import files
from keras_moe.models.presets import manifest


class _Weights:
    """The tensors of a file that are weights of the model."""

    def __init__(self, checkpoint, left_out):
        self.read, self.where = checkpoint.read, checkpoint.where
        self._shapes = {
            name: shape
            for name, shape in checkpoint.shapes().items()
            if name not in left_out
        }

    def shapes(self):
        return self._shapes


def convert_llm_random(
    source,
    out,
    options=None,
    *,
    verify=None,
    tolerance=2e-4,
    licence="not stated",
    say=print,
):
    """Convert a checkpoint of llm-random into a preset.

    A causal model becomes a preset for `MoTCausalLM`, one of
    `--model-type bert` a preset for `MoTBackbone`. Neither has a tokenizer.

    Args:
        source: a `.pt` file.
        out: the preset's folder; see `save_to_preset`.
        options: an `Options`, what shapes do not tell.
        verify: .npz file to compare with, see `verify.compare_texts`.
        tolerance: of that comparison.
        licence: of the checkpoint, for the record.
        say: gets a line of text for each thing deduced.

    Raises:
        ConversionError: when anything does not fit; nothing is written then.
    """
    options = options or Options()
    options.check()
    out = streaming.check_out(out)
    verification.check(verify)
    with files.about(source, ConversionError):
        _convert(source, out, options, verify, tolerance, licence, say)


def _convert(source, out, options, verify, tolerance, licence, say):
    checkpoint = torch_file.Checkpoint(source)
    plan = deduce(checkpoint, options)
    for note in plan.notes:
        say(note)
    if plan.left_out:
        say(f"left out, no part of the model: {', '.join(plan.left_out)}")
    say("tokenizer: none in the source; the preset reads token ids")
    weights = _Weights(checkpoint, plan.left_out)
    record = {
        "source": checkpoint.file.name,
        "files": {checkpoint.file.name: manifest.digest(checkpoint.file)},
        "prefix": checkpoint.prefix,
        "options": {k: v for k, v in vars(options).items() if v is not None},
        "deduced": plan.notes,
        "left_out": plan.left_out,
        "arrays": len(weights.shapes()),
        "licence": licence,
    }
    language.write(
        out,
        plan.backbone,
        plan.sources,
        weights,
        record,
        causal_lm=plan.backbone["causal"],
        verify=verify,
        tolerance=tolerance,
        say=say,
    )
