"""Language models, from any checkpoint, into presets."""

from conversion import streaming
from conversion import verify as verification
from keras_moe.models import MoTBackbone
from keras_moe.models import MoTCausalLM
from keras_moe.models.checkpoints import foreign_weights
from keras_moe.models.vision import architectures

# Small, with every variable of the model; an even head_dim for rotary places.
# As many ids and places as the model, which the preprocessor is checked for.
TWIN = {"hidden_dim": 4, "head_dim": 2, "mlp_dim": 2}
TWIN_ROUTER = {"intermediate_dim": 2}


def build(backbone, small=False):
    """`MoTBackbone` of the arguments, or its small twin."""
    backbone = dict(backbone)
    if small:
        backbone.update(TWIN)
        if backbone.get("router"):
            options = {**backbone["router_options"], **TWIN_ROUTER}
            backbone["router_options"] = options
    return MoTBackbone(dtype="float32", **backbone)


def write(
    out,
    backbone,
    sources,
    checkpoint,
    record,
    *,
    preprocessor=None,
    causal_lm=True,
    verify=None,
    tolerance=2e-4,
    say=print,
):
    """Write the preset of a language model, whole or not at all.

    Args:
        out: the preset's folder.
        backbone: arguments of `MoTBackbone`.
        sources: {path of our variable: `foreign_weights.Source`}.
        checkpoint: with `shapes()` and `read(name)`.
        record: what is known of the source, for `conversion.json`.
        preprocessor: of the preset, or `None`.
        causal_lm: whether the preset is of `MoTCausalLM`, or of the backbone.
        verify: .npz file to compare with, see `verify.compare_texts`.
        tolerance: of that comparison.
        say: gets a line of text for each thing done.
    """
    variables = architectures.weight_shapes(lambda: build(backbone))
    foreign_weights.match(sources, checkpoint.shapes(), variables)

    def make_twin():
        twin = build(backbone, small=True)
        return MoTCausalLM(twin, preprocessor) if causal_lm else twin

    def of_backbone(config):
        for key in (*TWIN, "router_options"):
            config[key] = backbone.get(key)

    edits = {"config.json": of_backbone}
    if causal_lm:
        edits["task.json"] = lambda c: of_backbone(c["backbone"]["config"])

    def read(path):
        return foreign_weights.read(sources[path], checkpoint)

    def check(preset):
        model = MoTBackbone.from_preset(str(preset))
        return verification.compare_texts(model, verify, tolerance)

    streaming.write_preset(
        out,
        make_twin,
        edits,
        variables,
        read,
        record,
        check if verify is not None else None,
        say,
    )
