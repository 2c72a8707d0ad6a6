#!/usr/bin/env bash
# Pretrain with the layers' matrix products in FP8, by Transformer Engine, on all GPUs of one machine.
#
#   examples/pretrain_fp8.sh KIND SIZE PREFIX TOKENIZER SAVE [flags]
#
# KIND is encoder or decoder; SIZE, PREFIX, TOKENIZER, SAVE, RANKS and PHASE are those of pretrain_encoder.sh. It needs
# Transformer Engine and GPUs with FP8 (Ada, Hopper, Blackwell); tools/doctor.py reports whether both are available.
#
# FP8_RECIPE (tensorwise) is delayed, tensorwise, blockwise (Hopper) or mxfp8 (Blackwell).
# FP8_FORMAT (hybrid) is hybrid, with E5M2 gradients, or e4m3.
set -euo pipefail
(($# >= 5)) || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

recipe="${FP8_RECIPE:-tensorwise}"
flags=(--transformer-impl transformer_engine --fp8-format "${FP8_FORMAT:-hybrid}" --fp8-recipe "$recipe")
# FP8 costs most accuracy in the first and last layer; the delayed recipe cannot exclude layers.
[[ $recipe == delayed ]] || flags+=(--first-last-layers-bf16)
exec bash "$(dirname "${BASH_SOURCE[0]}")/ettin.sh" "${@:1:5}" "${flags[@]}" "${@:6}"
