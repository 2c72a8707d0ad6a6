"""Expected warnings are ignored."""

from __future__ import annotations

import warnings

from megatron_ettin.train.run import silence_expected_warnings


def test_expected_warnings_are_ignored_and_others_are_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_expected_warnings()
        warnings.warn("Transformer Engine and Apex are not installed. Falling back to Torch optimizers.", stacklevel=1)
        warnings.warn("`load_state_dict` is deprecated and will be removed", FutureWarning, stacklevel=1)
        warnings.warn("the loss is not finite", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["the loss is not finite"]
