#!/usr/bin/env bash
# Pretrain on several machines: run this on each of them with the same arguments.
#
#   NNODES=4 MASTER_ADDR=host0 RANKS=8 examples/pretrain_multinode.sh CONFIG PREFIX TOKENIZER SAVE [flags]
#
# MASTER_ADDR is one of the machines, reachable from all at MASTER_PORT (29400) for the rendezvous. They may start in
# any order, and are numbered automatically. PREFIX, TOKENIZER and SAVE are on a shared file system. RANKS is the number
# of GPUs per machine.
#
# SIGTERM, SIGINT and SIGUSR1 to this process, on one machine or on all, save and stop: SAVE/stop.json states the reason
# and the step, and this script returns 0. SHUTDOWN_SECONDS (600) is the time that the ranks get for this, and must
# exceed the time of a save.
set -euo pipefail
(($# >= 4)) || { sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# When a rank or a machine fails, all ranks restart from the latest checkpoint, at most this many times.
restarts="${MAX_RESTARTS:-3}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Otherwise torchrun keeps using the store of the first round, which may have died with its machine.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# torchrun returns 1 after a signal, whatever its ranks return. So this shell forwards the signals, and derives the exit
# code from SAVE/stop.json.
torchrun --nnodes "${NNODES:?set it to the number of machines}" --nproc-per-node "${RANKS:?set it to the GPUs of a machine}" \
  --rdzv-backend c10d --rdzv-endpoint "${MASTER_ADDR:?set it to one of the machines}:${MASTER_PORT:-29400}" \
  --rdzv-id "${RUN_ID:-megatron_ettin}" --max-restarts "$restarts" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "${SHUTDOWN_SECONDS:-600}" \
  -m megatron_ettin.pretrain \
  --config "$1" --data-path "$2" --tokenizer-model "$3" --save "$4" --load "$4" "${@:5}" &
agent=$!
signalled=0
# To the ranks and not to torchrun: Slurm signals torchrun too, and a second signal ends it before its ranks have saved.
# shellcheck disable=SC2317  # the traps call it
forward() {
  local child children=() ranks=()
  signalled=1
  read -ra children 2>/dev/null <"/proc/$agent/task/$agent/children" || true # the list ends without a newline
  for child in "${children[@]}"; do
    if grep -qzs '^RANK=' "/proc/$child/environ"; then ranks+=("$child"); fi
  done
  # Before the ranks start there is nothing to save.
  kill -s "$1" "${ranks[@]:-$agent}" 2>/dev/null || true
}
for name in TERM INT USR1; do
  # shellcheck disable=SC2064  # expand the name now
  trap "forward $name" "$name"
done

code=0
wait "$agent" || code=$?
while kill -0 "$agent" 2>/dev/null; do # a signal interrupted the wait, and torchrun is still running
  code=0
  wait "$agent" || code=$?
done
# On a shared file system, files written by other machines may appear late.
for ((seconds = 0; signalled && code && seconds < 30; seconds++)); do
  [[ ! -e $4/stop.json ]] || code=0
  ((code == 0)) || sleep 1
done
exit "$code"
