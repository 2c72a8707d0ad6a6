#!/usr/bin/env bash
# Submit the three phases of a run under Slurm; each waits until the one before it has come to its end.
#
#   examples/slurm_phases.sh CONFIG PREFIX TOKENIZER SAVE [flags]
#
# {phase} in PREFIX stands for the phase, where each has a corpus of its own. SAVE gets a folder for each phase. The
# numbers of the jobs are printed, one a line.
#
# NODES (1) is how many machines a job takes; PHASES (pretrain extend decay) is what to submit; SBATCH_* are sbatch's own.
set -euo pipefail
(($# >= 4)) || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

job="" before=""
for phase in ${PHASES:-pretrain extend decay}; do
  after=() parent=()
  # A job that puts itself into the queue again has not ended: its dependents go on waiting.
  [[ -z $job ]] || after=(--dependency="afterok:$job")
  [[ -z $before ]] || parent=(--pretrained-checkpoint "$4/$before")
  job="$(sbatch --parsable --nodes "${NODES:-1}" --job-name "ettin_$phase" "${after[@]}" \
    "$(dirname "${BASH_SOURCE[0]}")/slurm_pretrain.sbatch" "$1" "${2//\{phase\}/$phase}" "$3" "$4/$phase" \
    --phase "$phase" "${parent[@]}" "${@:5}")"
  job="${job%%;*}" before="$phase"
  echo "$job"
done
