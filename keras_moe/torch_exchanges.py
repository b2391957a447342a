"""Exchanges between processes of PyTorch: slots, rows, and joint batches.

Each of n processes holds E/n experts. Slots (G,E,S,D) of a process go to the
processes of their experts, all in equal parts:

    (G,E,S,D) -> (n,G,E/n,S,D) -> all-to-all -> (n·G,E/n,S,D) -> experts

Rows (P,D) sorted by expert, of dropless token choice, go in parts of any size:

    (P,D) -> all-to-all -> (R,D) -> sorted by expert again -> experts

and both come back the same way.
"""

import torch
from torch import distributed

from keras_moe.ops import grouped
from keras_moe.plans import GroupedPlan


class _AllToAll(torch.autograd.Function):
    """Rows (N,…), the first `sent[0]` for process 0, and so on.

    `came[i]` of them come from process i. Its own transpose, with the numbers
    exchanged. The gradient is multiplied by a factor.
    """

    @staticmethod
    def forward(ctx, rows, sent, came, group, factor):
        ctx.sizes, ctx.group, ctx.factor = (came, sent), group, factor
        received = rows.new_empty((sum(came), *rows.shape[1:]))
        distributed.all_to_all_single(received, rows, came, sent, group)
        return received

    @staticmethod
    def backward(ctx, grad):
        rows = _AllToAll.apply(grad.contiguous(), *ctx.sizes, ctx.group, 1.0)
        return rows * ctx.factor, None, None, None, None


class Exchange:
    """All-to-alls between the processes of a group.

    Gradients are divided by n on the way to the experts, whose weights get
    the sum over the processes, and multiplied by n on the way back to tokens.
    So regularisers, which no exchange sees, count in full.

    Args:
        group: a `torch.distributed.ProcessGroup`.
    """

    def __init__(self, group):
        self.group = group
        self.processes = distributed.get_world_size(group)
        self.rank = distributed.get_rank(group)

    def __deepcopy__(self, memo):
        return self  # a group of processes has no copies

    def there(self, slots, steps):
        """Send what the experts of all processes are to compute.

        Args:
            slots: (G,E,S,D), or rows (P,D) sorted by expert.
            steps: the dispatcher that made them.

        Returns:
            The slots (n·G,E/n,S,D) or rows (R,D) of this process's experts,
            the dispatcher whose steps multiply them, and a function that
            sends the experts' outputs back.
        """
        if len(slots.shape) == 2:
            return self._rows_there(slots, steps.plan)
        return self._slots_there(slots), steps, self._slots_back

    def _slots_there(self, slots):
        """(G,E,S,D) of the process's tokens -> (n·G,E/n,S,D) of its experts."""
        groups, experts, length, features = slots.shape
        own = experts // self.processes
        blocks = slots.reshape(groups, self.processes, own, length, features)
        blocks = blocks.transpose(0, 1)
        blocks = self._equal_parts(blocks, float(self.processes))
        return blocks.reshape(-1, own, length, features)

    def _slots_back(self, slots):
        """(n·G,E/n,S,D) -> (G,E,S,D)."""
        _, own, length, features = slots.shape
        blocks = slots.reshape(self.processes, -1, own, length, features)
        blocks = self._equal_parts(blocks, 1.0 / self.processes)
        blocks = blocks.transpose(0, 1)
        return blocks.reshape(-1, own * self.processes, length, features)

    def _equal_parts(self, blocks, factor):
        """Blocks (n,…): block j goes to process j."""
        ones = [1] * self.processes
        return _AllToAll.apply(
            blocks.contiguous(), ones, ones, self.group, factor
        )

    def _rows_there(self, rows, plan):
        """Send rows as `there` does; those of masked tokens stay.

        First come the numbers of rows of each expert. The host must read how
        many rows each process sends and gets, as sizes of arrays are numbers
        of Python: on a GPU it waits there for the router.
        """
        counts = torch.bincount(
            plan.expert.reshape(-1), minlength=plan.num_experts + 1
        )
        counts = counts[:-1].reshape(self.processes, -1)  # (n,E/n)
        came_counts = torch.empty_like(counts)
        distributed.all_to_all_single(came_counts, counts, group=self.group)
        sent, came = torch.stack([counts, came_counts]).sum(2).tolist()

        own = counts.shape[1]
        owner = torch.arange(own, dtype=torch.int32, device=rows.device)
        owner = torch.repeat_interleave(
            owner.repeat(self.processes),
            came_counts.reshape(-1),
            output_size=sum(came),
        )[None, :, None]
        gates = torch.ones_like(owner, dtype=rows.dtype)
        here = grouped.prepare(GroupedPlan(owner, gates, own), rows.dtype)
        masked = len(rows) - sum(sent)

        def back(rows):
            rows = here.restore(rows)
            rows = _AllToAll.apply(
                rows.contiguous(), came, sent, self.group, 1.0 / self.processes
            )
            return torch.nn.functional.pad(rows, (0, 0, 0, masked))

        arrived = _AllToAll.apply(
            rows[: sum(sent)].contiguous(),
            sent,
            came,
            self.group,
            float(self.processes),
        )
        return here.dispatch(arrived[None]), here, back


class Joint:
    """The batches of all processes of a group, in the order of their ranks.

    Args:
        group: a `torch.distributed.ProcessGroup`.
    """

    def __init__(self, group):
        self.group = group
        self.processes = distributed.get_world_size(group)

    def __deepcopy__(self, memo):
        return self

    def gather(self, array):
        """(G,…) of each process -> (n·G,…) of all, without gradients."""
        array = array.detach().contiguous()
        # Not all libraries of communication send Boolean values.
        sent = array.byte() if array.dtype == torch.bool else array
        parts = [torch.empty_like(sent) for _ in range(self.processes)]
        distributed.all_gather(parts, sent, group=self.group)
        return torch.cat(parts).to(array.dtype)
