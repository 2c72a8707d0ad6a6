#!/usr/bin/env bash
# Pretrain on all ranks of one machine; started again with the same arguments, it goes on from the latest checkpoint.
#
#   RANKS=8 examples/pretrain_one_node.sh examples/configs/nano_encoder.yaml PREFIX TOKENIZER SAVE [flags]
#
# PREFIX is what tools/preprocess_data.py wrote, TOKENIZER a folder with tokenizer.json. RANKS is best the number of
# GPUs, or of CPU cores; by default it is the first, else 2. Further flags, such as --dry-run, go to the trainer.
set -euo pipefail
(($# >= 4)) || { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
ranks="${RANKS:-$((gpus ? gpus : 2))}"
# Ranks on CPU cores take one thread each; on GPUs the threads matter little.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --standalone --nproc-per-node "$ranks" -m megatron_ettin.pretrain \
  --config "$1" --data-path "$2" --tokenizer-model "$3" --save "$4" --load "$4" "${@:5}"
