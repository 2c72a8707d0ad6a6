#!/usr/bin/env bash
# Pretrain an encoder of the Ettin paper (MLM) on all GPUs of one machine.
#
#   examples/pretrain_encoder.sh SIZE PREFIX TOKENIZER SAVE [flags]
#   PHASE=extend examples/pretrain_encoder.sh SIZE PREFIX TOKENIZER SAVE2 --pretrained-checkpoint SAVE [flags]
#
# SIZE is one of 17m 32m 68m 150m 400m 1b, PREFIX the output of tools/preprocess_data.py, TOKENIZER a folder with
# tokenizer.json. With the same arguments a later start resumes from the latest checkpoint in SAVE. --dry-run prints the
# plan.
#
# RANKS (all GPUs) is the number of GPUs to use; PHASE (pretrain) is pretrain, extend or decay.
set -euo pipefail
(($# >= 4)) || { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
exec bash "$(dirname "${BASH_SOURCE[0]}")/ettin.sh" encoder "$@"
