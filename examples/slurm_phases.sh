#!/usr/bin/env bash
# Submit the three phases of a run to Slurm; each starts after the previous one has finished.
#
#   examples/slurm_phases.sh CONFIG PREFIX TOKENIZER SAVE [flags]
#
# {phase} in PREFIX is replaced by the phase, if each has its own corpus. SAVE gets a folder for each phase. The job
# numbers are printed, one per line.
#
# NODES (1) is the number of machines per job, PHASES (pretrain extend decay) the phases; SBATCH_* are sbatch's own.
set -euo pipefail
(($# >= 4)) || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

job="" before=""
for phase in ${PHASES:-pretrain extend decay}; do
  after=() parent=()
  # A job that requeues itself has not ended, so its dependents keep waiting.
  [[ -z $job ]] || after=(--dependency="afterok:$job")
  [[ -z $before ]] || parent=(--pretrained-checkpoint "$4/$before")
  job="$(sbatch --parsable --nodes "${NODES:-1}" --job-name "ettin_$phase" "${after[@]}" \
    "$(dirname "${BASH_SOURCE[0]}")/slurm_pretrain.sbatch" "$1" "${2//\{phase\}/$phase}" "$3" "$4/$phase" \
    --phase "$phase" "${parent[@]}" "${@:5}")"
  job="${job%%;*}" before="$phase"
  echo "$job"
done
