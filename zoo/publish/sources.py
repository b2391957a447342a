"""Checkpoints of others that become presets, and what they should become."""

import dataclasses
import shlex


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A published checkpoint.

    Args:
        name: of the preset.
        title: one line for tables and cards.
        address: `hf://…` of a repository, or the prefix of a checkpoint's
            files in a store that tensorstore reads, such as `gs://…`.
        format: command of `python -m conversion`, "mot" or "vmoe".
        licence: of the checkpoint.
        parameters: how many the preset must have.
        options: of the conversion.
    """

    name: str
    title: str
    address: str
    format: str
    licence: str
    parameters: int
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The conversion of a checkpoint that lies here already."""
        words = ["python", "-m", "conversion", self.format]
        words += [self.address.rpartition("/")[2], self.name]
        if self.format == "mot":
            words[4] = self.address
        for option, value in self.options.items():
            words += [f"--{option.replace('_', '-')}", str(value)]
        return shlex.join([*words, "--licence", self.licence])


# V-MoE: google-research/vmoe names them in its README; capacities are those
# of its configurations for fine-tuning at 384 pixels.
_VMOE = "gs://vmoe_checkpoints/vmoe_"
_SOURCES = (
    Source(
        name="mixture_of_tokens_573m",
        title="Mixture of Tokens, 256 experts, groups of 32, as published",
        address="hf://jaszczur/mixture_of_tokens",
        format="mot",
        licence="apache-2.0",
        parameters=572_597_760,
    ),
    Source(
        name="vmoe_s32_last2_imagenet_384",
        title="V-MoE S/32, 8 experts in two blocks, ImageNet, 384 pixels",
        address=f"{_VMOE}s32_last2_ilsvrc2012_randaug_light1_ft_ilsvrc2012",
        format="vmoe",
        licence="apache-2.0",
        parameters=56_785_384,
        options={"top_k": 2, "capacity_factor": 1.5},
    ),
    Source(
        name="vmoe_b16_imagenet21k_imagenet_384",
        title="V-MoE B/16, 8 experts in every other block, ImageNet-21k, then "
        "ImageNet at 384 pixels",
        address=f"{_VMOE}b16_imagenet21k_randaug_strong_ft_ilsvrc2012",
        format="vmoe",
        licence="apache-2.0",
        parameters=285_238_504,
        options={"top_k": 2, "capacity_factor": 1.5},
    ),
)
SOURCES = {source.name: source for source in _SOURCES}
