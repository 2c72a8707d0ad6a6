#!/usr/bin/env bash
# Pretrain on all ranks of one machine; a later start with the same arguments resumes from the latest checkpoint.
#
#   RANKS=8 examples/pretrain_one_node.sh examples/configs/nano_encoder.yaml PREFIX TOKENIZER SAVE [flags]
#
# PREFIX is the output of tools/preprocess_data.py, TOKENIZER a folder with tokenizer.json. RANKS should be the number
# of GPUs or CPU cores; the default is the number of GPUs, or 2 without. Flags such as --dry-run go to the trainer.
#
# SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 to this process save and stop: SAVE/stop.json states the reason, and torchrun
# returns 1. SHUTDOWN_SECONDS (600) is the time that the ranks get for this, and must exceed the time of a save.
set -euo pipefail
(($# >= 4)) || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
ranks="${RANKS:-$((gpus ? gpus : 2))}"
# One thread for each rank on CPU cores; on GPUs the number of threads matters little.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --standalone --nproc-per-node "$ranks" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${SHUTDOWN_SECONDS:-600}" \
  -m megatron_ettin.pretrain \
  --config "$1" --data-path "$2" --tokenizer-model "$3" --save "$4" --load "$4" "${@:5}"
