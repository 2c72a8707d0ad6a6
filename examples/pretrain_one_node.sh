#!/usr/bin/env bash
# Pretrain on all ranks of one machine; started again with the same arguments, it goes on from the latest checkpoint.
#
#   RANKS=8 examples/pretrain_one_node.sh examples/configs/nano_encoder.yaml PREFIX TOKENIZER SAVE [flags]
#
# PREFIX is what tools/preprocess_data.py wrote, TOKENIZER a folder with tokenizer.json. RANKS is best the number of
# GPUs, or of CPU cores; by default it is the first, else 2. Further flags, such as --dry-run, go to the trainer.
#
# SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 to this process save and stop: SAVE/stop.json tells why and where. torchrun
# returns 1 then. SHUTDOWN_SECONDS (600) is what it gives the ranks for that, and must be above the time of a save.
set -euo pipefail
(($# >= 4)) || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
ranks="${RANKS:-$((gpus ? gpus : 2))}"
# Ranks on CPU cores take one thread each; on GPUs the threads matter little.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --standalone --nproc-per-node "$ranks" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${SHUTDOWN_SECONDS:-600}" \
  -m megatron_ettin.pretrain \
  --config "$1" --data-path "$2" --tokenizer-model "$3" --save "$4" --load "$4" "${@:5}"
