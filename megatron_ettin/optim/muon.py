"""Muon for the matrices between embedding and output, AdamW for all other parameters, in one optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_ettin.optim.adamw import FusedAdamW, Group, with_gradient


class MuonAdamW(FusedAdamW):
    """Steps the groups marked ``muon`` with torch's Muon, the others with AdamW.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the update scale of Liu et al. 2025 (arXiv:2502.16982),
    0.2 sqrt(max(rows, columns)), which matches the RMS of AdamW's update: learning rate and decay are shared. A fused
    matrix (query, key and value; both halves of the gated MLP) counts as one matrix.
    """

    def _step_groups(self) -> None:
        for group in self.param_groups:
            if tensors := with_gradient(group):
                self._step_muon(group, tensors) if group.get("muon") else self._step_adamw(group, tensors)

    def _step_muon(self, group: Group, tensors: list[Tensor]) -> None:
        # Torch has no public function for the step alone: its class gets the momenta, which it updates in place.
        muon = torch.optim.Muon(
            tensors,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["muon_momentum"],
            adjust_lr_fn="match_rms_adamw",
        )
        for tensor in tensors:
            muon.state[tensor] = self.moments(group, tensor)
        muon.step()

    def _new_state(self, group: Group, tensor: Tensor) -> dict[str, Tensor]:
        if not group.get("muon"):
            return super()._new_state(group, tensor)
        return {"momentum_buffer": torch.zeros_like(tensor.detach())}
