"""Routers of vmoe's checkpoints, from shapes and options."""

from conversion.errors import ConversionError
from conversion.options import flag

# vmoe raises capacities to a multiple of 4 unless told otherwise; its Expert
# Choice configurations of the Soft MoE paper round, to a multiple of 1.
MULTIPLE = {"token_choice": 4, "ceil": 4, "round": 1}


def rank_of(shapes, path, rank):
    """Return a shape, or raise an error where its rank is another one."""
    shape = shapes.get(path)
    if shape is None or len(shape) != rank or 0 in shape:
        raise ConversionError(
            f"{path} must have {rank} axes, none of size 0; the checkpoint "
            f"has {shape}."
        )
    return shape


def router(shapes, moe, options, named, notes):
    """Return the router's name and options."""
    if moe + "Router/mu" in shapes:
        refuse_options(options)
        _, experts, slots = rank_of(shapes, moe + "Router/mu", 3)
        notes.append(f"router: soft, {experts} experts of {slots} slots")
        return "soft", {
            "num_experts": experts,
            "slots_per_expert": slots,
            "normalize": moe + "Router/scale" in shapes,
        }
    experts = rank_of(shapes, moe + "Router/dense/kernel", 2)[1]
    known = {}
    if named.get("router") in ("token_choice", "expert_choice"):
        known = dict(named["router_options"])
    top_k = options.top_k or known.get("top_k")
    factor = options.capacity_factor or known.get("capacity_factor")
    if factor is None:
        raise ConversionError(
            "the checkpoint does not say how its router is used: give "
            "--capacity-factor C for Expert Choice, --top-k K and "
            "--capacity-factor C for token choice, or --architecture NAME."
        )
    router_options = {"num_experts": experts, "capacity_factor": factor}
    rounding = options.capacity_rounding or "round"
    if top_k:
        name = kind = "token_choice"
        router_options["top_k"] = top_k
        router_options["batch_priority"] = options.batch_priority
        if options.capacity_rounding == "round":  # else it rounds up
            router_options["capacity_rounding"] = "round"
    else:
        name, kind = "expert_choice", rounding
        router_options["capacity_rounding"] = rounding
        if options.batch_priority:
            raise ConversionError(
                "--batch-priority is of token choice: give --top-k K too."
            )
    router_options["capacity_multiple_of"] = (
        options.capacity_multiple_of
        or known.get("capacity_multiple_of")
        or MULTIPLE[kind]
    )
    notes.append(f"router: {name}, {router_options}, as given")
    if not (top_k or known):
        notes.append(
            "router: Expert Choice is taken as --top-k is not given; the "
            "weights do not tell it from token choice, which --top-k N would "
            "make it"
        )
    return name, router_options


def refuse_options(options):
    """Refuse options of hard routers."""
    for name in (
        "top_k",
        "capacity_factor",
        "capacity_rounding",
        "capacity_multiple_of",
    ):
        if getattr(options, name) is not None:
            raise ConversionError(
                f"{flag(name)} is of routers that choose; this checkpoint has "
                "none, it is Soft MoE or dense."
            )
    if options.batch_priority:
        raise ConversionError(
            "--batch-priority is of token choice; this checkpoint has none."
        )


def group(options, router_options, tokens, notes):
    """Note the group size, and add it where it is not an image."""
    size = options.group_size
    if size is None or size == tokens:
        notes.append(
            f"group size: the {tokens} tokens of one image"
            + ("" if size else " (the checkpoint does not say; --group-size)")
        )
        return
    notes.append(f"group size: {size} tokens, as given; an image has {tokens}")
    router_options["group_size"] = size
