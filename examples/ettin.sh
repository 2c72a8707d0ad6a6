#!/usr/bin/env bash
# The published run of one size and kind on all GPUs of this machine, as called by pretrain_encoder.sh,
# pretrain_decoder.sh and pretrain_fp8.sh:
#
#   examples/ettin.sh KIND SIZE PREFIX TOKENIZER SAVE [flags]
#
# KIND is encoder or decoder, SIZE one of 17m 32m 68m 150m 400m 1b. For the phases after pretrain set PHASE to extend or
# decay, and give --pretrained-checkpoint the SAVE of the previous phase.
set -euo pipefail
(($# >= 5)) || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
refuse() { echo "error: $1" >&2; exit 2; }

here="$(dirname "${BASH_SOURCE[0]}")"
kind=$1 size=$2 phase="${PHASE:-pretrain}"
config="$here/configs/ettin/${size}_$kind.yaml"
[[ -f $config && $kind =~ ^(en|de)coder$ ]] || refuse "$kind $size: must be encoder or decoder and a size of the paper"

# Rows of a micro-batch in the authors' runs on GPUs with 80 GB (docs/recipe.md); --dry-run --plan-gpu-memory N suggests
# a number for other GPUs.
case "$phase:$size" in
  pretrain:17m) rows=144 ;; pretrain:32m) rows=128 ;; pretrain:68m) rows=96 ;;
  pretrain:150m) rows=72 ;; pretrain:400m) rows=48 ;; pretrain:1b) rows=24 ;;
  extend:17m | extend:32m) rows=24 ;; extend:68m) rows=18 ;; extend:150m) rows=16 ;; extend:400m) rows=6 ;;
  decay:17m | decay:32m | decay:150m) rows=12 ;; decay:68m) rows=8 ;;
  extend:* | decay:*) rows=2 ;;
  *) refuse "PHASE=$phase: must be pretrain, extend or decay" ;;
esac

gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
RANKS="${RANKS:-$((gpus ? gpus : 1))}"
export RANKS
# The step's 4,608 rows must be a whole number of micro-batches on every GPU.
share=$((4608 / RANKS))
while ((rows > 1 && share % rows)); do rows=$((rows - 1)); done

# Shard the optimizer state over the GPUs, and overlap communication with computation.
exec bash "$here/pretrain_one_node.sh" "$config" "$3" "$4" "$5" --phase "$phase" --micro-batch-size "$rows" \
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather "${@:6}"
