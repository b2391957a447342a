"""Groups of processes of PyTorch, copies (forks) of one that talk by gloo."""

import json
import tempfile

import torch
from torch import distributed

from tests.layers import forks


def found_by(member, processes, *inputs):
    """What the first process of a group returns.

    Args:
        member: of (rank, processes, folder, *inputs), called in each process.
        processes: how many.
        *inputs: for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        forks.run(
            folder,
            *(
                (_join, member, rank, processes, inputs)
                for rank in range(processes)
            ),
        )
        with open(f"{folder}/alone.json") as file:
            return json.load(file)


def _join(member, rank, processes, inputs, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=processes,
    )
    facts = member(rank, processes, folder, *inputs)
    if rank == 0:
        forks.save(facts, folder)
    distributed.destroy_process_group()
