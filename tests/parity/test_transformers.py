"""With trained weights, transformers' classes compute the logits of the trainer's model, for any layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from megatron_ettin.config.run import RunConfig
from megatron_ettin.convert.hf_config import config_to_hf
from megatron_ettin.convert.hf_tokenizer import SpecialToken, SpecialTokens
from megatron_ettin.convert.tensor_names import tensor_names, tensor_to_hf
from tests.helpers.batches import packed_batch
from tests.helpers.distributed import run_ranks
from tests.helpers.runs import TINY, tiny_run
from tests.helpers.shards import Shard, assemble, rank_shards
from tests.helpers.training import start_training, train_steps

LENGTHS = (1, 63, 64, 65, 66, 128, 129, 130, 300, 1024)
LAYOUTS = {
    "tp1": (1, {}),
    "tp2": (2, {"tensor_model_parallel_size": 2}),
    "pp2": (2, {"pipeline_model_parallel_size": 2}),
}


def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.integers(5, TINY.vocab_size, length) for length in LENGTHS]


def run_of(objective: str, overrides: dict[str, Any]) -> RunConfig:
    return tiny_run(objective, model=replace(TINY, sliding_window=128), lr=1e-2, **overrides)


def train_and_score(objective: str, overrides: dict[str, Any]) -> tuple[list[Shard], np.ndarray | None]:
    """Train 8 steps, then score the documents packed into one micro-batch, in the same layout.

    Returns this rank's weights and its part [T, V / TP] of the logits, None before the last stage.
    """
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from megatron_ettin.train.step import _to_device

    training = start_training(run_of(objective, overrides))
    train_steps(training, range(8))
    training.wrapped.eval()
    batch = packed_batch(documents(), causal=True)
    batch = replace(batch, scored_K=np.arange(len(batch.tokens_T)))

    def forward(batches: Any, model: torch.nn.Module) -> Any:
        b = next(batches)
        return model(b.tokens_T, b.layout, b.scored_K), lambda logits, non_loss_data: logits.detach().numpy()

    with torch.no_grad():
        outputs = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter([_to_device(batch, training)]),
            model=[training.wrapped],
            num_microbatches=1,
            seq_length=1,
            micro_batch_size=1,
            forward_only=True,
            collect_non_loss_data=True,
        )
    return rank_shards(training.model), outputs[0] if training.ranks.is_last_stage else None


def their_model(objective: str, run: RunConfig, weights: dict[str, np.ndarray], attention: str) -> torch.nn.Module:
    """Build transformers' class from complete trained weights."""
    import transformers

    roles = (SpecialToken(f"[{role}]", index) for index, role in enumerate(("CLS", "SEP", "PAD", "MASK")))
    config = config_to_hf(
        run.model, objective, max_positions=max(LENGTHS), tokens=SpecialTokens(*roles), dtype="float32"
    )
    their_class = getattr(transformers, config["architectures"][0])
    model = their_class._from_config(their_class.config_class(**config), attn_implementation=attention).eval()
    state: dict[str, torch.Tensor] = {}
    for name in tensor_names(objective, run.model):
        parts = tensor_to_hf(name, torch.from_numpy(weights[name.canonical]), run.model.num_attention_heads)
        state.update(zip(name.hf_names, parts, strict=True))
    problems = model.load_state_dict(state, strict=False)
    assert problems.missing_keys == ["decoder.weight"], "only the tied output matrix may be left out"
    assert not problems.unexpected_keys
    model.tie_weights()
    return model


@pytest.fixture(scope="module", params=[(o, layout) for o in ("mlm", "clm") for layout in LAYOUTS], ids="-".join)
def trained(request: pytest.FixtureRequest) -> tuple[str, RunConfig, dict[str, np.ndarray], np.ndarray]:
    """Objective, run, complete weights after training, and the trained model's logits of all documents."""
    objective, layout = request.param
    world_size, overrides = LAYOUTS[layout]
    shards, logits = zip(*run_ranks(world_size, train_and_score, objective, overrides), strict=True)
    whole = np.concatenate([part for part in logits if part is not None], axis=-1)
    return objective, run_of(objective, overrides), assemble(list(shards)), whole


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_equal_transformers(trained: Any, attention: str) -> None:
    objective, run, weights, logits = trained
    model = their_model(objective, run, weights, attention)
    start = 0
    for document in documents():
        with torch.no_grad():
            theirs = model(torch.from_numpy(document)[None]).logits[0].numpy()
        ours = logits[start : start + len(document)]
        start += len(document)
        assert np.abs(ours).max() > 1.0, "logits this small would hide differences"
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1.0, np.abs(theirs).max()))
