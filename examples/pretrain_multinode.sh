#!/usr/bin/env bash
# Pretrain over several machines: run this on each of them, with the same arguments.
#
#   NNODES=4 MASTER_ADDR=host0 RANKS=8 examples/pretrain_multinode.sh CONFIG PREFIX TOKENIZER SAVE [flags]
#
# MASTER_ADDR is one of the machines, reachable from all at MASTER_PORT (29400). The machines find each other there, in
# any order of starting, and number themselves. PREFIX, TOKENIZER and SAVE are on a file system that all of them share.
# RANKS is the number of GPUs of a machine.
set -euo pipefail
(($# >= 4)) || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# When a rank or a machine fails, all start again from the latest checkpoint, at most this many times.
restarts="${MAX_RESTARTS:-3}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --nnodes "${NNODES:?set it to the number of machines}" --nproc-per-node "${RANKS:?set it to the GPUs of a machine}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:?set it to one of the machines}:${MASTER_PORT:-29400}" \
  --rdzv-id "${RUN_ID:-megatron_ettin}" --max-restarts "$restarts" -m megatron_ettin.pretrain \
  --config "$1" --data-path "$2" --tokenizer-model "$3" --save "$4" --load "$4" "${@:5}"
