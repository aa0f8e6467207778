"""What steers the flow transformer, computed before the steps that it is for.

Modulations that depend on the time alone are tables over the schedule, those that depend on the conditions too one
product for as many steps as memory allows, and cross-attention's keys and values one computation a scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from flowar import ops
from flowar.engine.packed import PackedNetworks
from flowar.networks.flow_transformer import BlockContext

# Bytes of modulations computed ahead of their steps. A GPU wants few and large GEMMs; a CPU its caches.
MODULATION_BUDGET = {"accelerator": 256 * 2**20, "cpu": 16 * 2**20}


class TimeTables:
    """τ and the modulations that depend on τ alone, at the times of one scale's evaluations."""

    def __init__(self, networks: PackedNetworks, intervals: Tensor) -> None:
        """intervals: [T, 2], those of the T evaluations, see `Evaluation.interval`."""
        self.networks, self.intervals = networks, intervals
        self.once = self._compute(intervals) if networks.savings.time_tables else None

    def at(self, start: int, stop: int) -> tuple[Tensor, list[Tensor | None]]:
        """τ [T, 1, 1, W] of the steps start .. stop - 1, and for every block [T, 1, 1, 3W] or None."""
        if self.once is None:
            return self._compute(self.intervals[start:stop])
        tau, by_time = self.once
        return tau[start:stop], [None if table is None else table[start:stop] for table in by_time]

    def _compute(self, intervals: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        t, r = intervals[:, :, None, None].unbind(1)  # [T, 1, 1] each
        tau = self.networks.flow.tau(t, r)
        return tau, [block.by_time(F.silu(tau)) for block in self.networks.flow.blocks]


class Steering:
    """What steers the flow transformer at every step of one scale: contexts of the blocks, modulation of the output."""

    def __init__(self, networks: PackedNetworks, tables: TimeTables, z: Tensor, k: int) -> None:
        """z: the conditions [B or 2B, n, D] of scale k."""
        self.networks, self.tables, self.z = networks, tables, z
        self.flow = networks.flow_for(z.shape[1])
        self.rotation, self.lengths = self.flow.rotation([k]), [self.flow.lengths[k]]
        self.conditions = self.flow.condition_embed(z)  # [B or 2B, n, W]
        self.known = self._keys_values() if networks.savings.cross_attention_once else None
        self.steps_ahead = 0  # whose modulations one GEMM computes; 0: one GEMM a block, when its turn comes
        if networks.savings.modulations_ahead:
            width = sum(layer.out_features for layer in self._layers())
            step_bytes = z.shape[:2].numel() * width * z.element_size()
            kind = "cpu" if z.device.type == "cpu" else "accelerator"
            self.steps_ahead = MODULATION_BUDGET[kind] // step_bytes

    def steps(self, rows_per_step: Sequence[int]) -> Iterator[tuple[Iterable[BlockContext], Tensor]]:
        """Contexts of the blocks and modulation of the output, step by step, for `rows_per_step[i]` rows of z."""
        for start, stop in self._chunks(rows_per_step):
            rows = rows_per_step[start]
            tau, by_time = self.tables.at(start, stop)
            by_position, output_modulation = self._modulations(self._steer(rows, tau))
            for i in range(stop - start):
                yield self._contexts(i, rows, by_position, by_time), output_modulation[i]

    def _chunks(self, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Runs of consecutive steps with equally many rows, none longer than the budget allows."""
        start, longest = 0, max(1, self.steps_ahead)
        for i in range(1, len(rows) + 1):
            if i == len(rows) or rows[i] != rows[start] or i - start == longest:
                yield start, i
                start = i

    def _steer(self, rows: int, tau: Tensor) -> Tensor:
        """SiLU(c + τ) of T steps: [T, rows, n, W]."""
        c, steps = self.conditions[:rows], len(tau)
        return ops.silu_add(c.reshape(1, -1, c.shape[-1]).expand(steps, -1, -1), tau[:, 0]).view(steps, *c.shape)

    def _modulations(self, steer: Tensor) -> tuple[Iterable[Tensor], Tensor]:
        """Modulations of every block [T, rows, n, 6W or 3W] and of the output [T, rows, n, 2W], from SiLU(c + τ)."""
        *layers, output_layer = self._layers()
        if self.networks.modulation is not None and (self.steps_ahead or not self.networks.savings.modulations_ahead):
            sizes = [layer.out_features for layer in (*layers, output_layer)]
            *blocks, output = self.networks.modulation(steer).split(sizes, -1)
            return blocks, output
        blocks_in_turn = (layer(steer) for layer in layers)
        return list(blocks_in_turn) if len(steer) > 1 else blocks_in_turn, output_layer(steer)

    def _layers(self) -> list[nn.Linear]:
        return [*(block.position_modulation for block in self.flow.blocks), self.flow.output_modulation]

    def _contexts(
        self, i: int, rows: int, by_position: Iterable[Tensor], by_time: Sequence[Tensor | None]
    ) -> Iterator[BlockContext]:
        """The contexts of step i of a chunk; each is made when its block's turn comes, so that not all live at once."""
        known = self._keys_values() if self.known is None else self.known
        for position, time, pair in zip(by_position, by_time, known, strict=True):
            keys_values = None if pair is None else tuple(each[:rows] for each in pair)
            yield BlockContext(position[i], None if time is None else time[i], keys_values)

    def _keys_values(self) -> list[tuple[Tensor, ...] | None]:
        return [block.keys_values(self.z, self.rotation) for block in self.flow.blocks]
