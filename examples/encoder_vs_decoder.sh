#!/usr/bin/env bash
# The Ettin paper's comparison in half an hour on two CPU cores: an encoder, a decoder and the two kinds made from them,
# in two sizes, trained on real text, released, evaluated on every suite of tools/evaluate.py, and compared in figures.
#
#   examples/encoder_vs_decoder.sh [--corpus FILE] [--data DIR] [--output DIR] [--tokens N] [--sizes LIST] [-- FLAG ...]
#
#   --corpus FILE   training text: .jsonl with a "text" in each line, or plain text (default: sources and docstrings of
#                   the Python standard library)
#   --data DIR      labelled data, a folder for each suite (docs/evaluation.md); other suites are mined from the
#                   installed Python packages
#   --output DIR    folder for all results (default: runs/encoder_vs_decoder); an interrupted run with the same settings
#                   is resumed
#   --tokens N      length of the first phase of each model (default: 600000)
#   --sizes LIST    of 0.7m and 2m parameters (default: 0.7m,2m)
#   FLAG ...        for tools/evaluate.py, such as other seeds: -- --seeds 1
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
refuse() { echo "error: $1" >&2; exit 2; }

corpus=""
data=""
output="runs/encoder_vs_decoder"
tokens=600000
sizes="0.7m,2m"
while (($#)); do
  case "$1" in
    --corpus | --data | --output | --tokens | --sizes)
      (($# > 1)) || refuse "$1: a value is missing"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --) shift; break ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "$1: unknown flag; --corpus FILE, --data DIR, --output DIR, --tokens N and --sizes LIST are known" ;;
  esac
done
evaluate_flags=("$@")
suites=(classification retrieval generative bias)
[[ -z $corpus || -f $corpus ]] || refuse "--corpus $corpus: there is no such file"
[[ -z $corpus ]] || corpus="$(realpath -- "$corpus")"
[[ -z $data || -d $data ]] || refuse "--data $data: there is no such folder"
given=""
for suite in "${suites[@]}"; do [[ -z $data || ! -d $data/$suite ]] || given=yes; done
[[ -z $data || $given ]] || refuse "--data $data: has none of the folders ${suites[*]}"
[[ -z $data ]] || data="$(realpath -- "$data")"
[[ $tokens =~ ^[1-9][0-9]{3,8}$ ]] || refuse "--tokens $tokens: must be a whole number of 1000 or more"
[[ $sizes =~ ^(0\.7m|2m)(,(0\.7m|2m))*$ ]] || refuse "--sizes $sizes: must be of 0.7m and 2m, with a comma between"
IFS=, read -ra sizes <<<"$sizes"
mark="$output/.encoder_vs_decoder"
[[ ! -e $output || -e $mark ]] || refuse "--output $output: exists and was not made by this script"

home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $output == /* ]] || output="$(realpath --canonicalize-missing --relative-to="$home" -- "$output")"
cd "$home"
# If no environment is active, use that of make install.
[[ -n ${VIRTUAL_ENV-} || ! -x .venv/bin/python ]] || PATH="$PWD/.venv/bin:$PATH"
# Check flags and packages before the training; argparse handles --help after parsing the flags before it.
python tools/evaluate.py "${evaluate_flags[@]}" --help >/dev/null || exit 2
find_missing='import sys; from importlib.util import find_spec; print(*(p for p in sys.argv[1:] if not find_spec(p)))'
missing="$(python -c "$find_missing" accelerate datasets lm_eval scipy sentence_transformers sklearn)"
[[ -z $missing ]] || refuse "these packages are missing: $missing; pip install 'megatron_ettin[eval]'"
mkdir -p "$output/models"
touch "$output/.encoder_vs_decoder"
# All processes of this script inherit the lock, so those that outlive a kill are waited for.
exec {lock}>"$output/.lock"
flock --nonblock "$lock" || { echo "waiting for the processes of an interrupted run"; flock "$lock"; }

# Two processes share two cores, with one thread each. Nothing is downloaded.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

stage() { printf '\n[%4d s] %s\n' "$SECONDS" "$1"; }

train_four() { # train_four SIZE: all four kinds with the nano recipe, on the same text with the same tokenizer
  stage "$1: training"
  local shape=()
  [[ $1 != 0.7m ]] || shape=(--hidden-size 96 --ffn-hidden-size 144 --num-attention-heads 2)
  examples/ettin_nano.sh --resume --output "$output/$1" --text "$output" --tokens "$tokens" \
    ${corpus:+--corpus "$corpus"} -- "${shape[@]}"
}

release() { # release CHECKPOINTS MODEL: as a Hugging Face folder, written atomically
  [[ -e $output/models/$2 ]] || python tools/convert_to_hf.py --load "$1" --save "$output/models/$2"
}

# Small models need large learning rates; inputs and trainings are short, so that eight models take about 12 minutes.
protocol=(--seeds 1 2 3
  --classification-learning-rates 1e-3 3e-3 --classification-choice-seeds 1 --classification-epochs 2
  --classification-train-items 1000 --classification-max-length 64
  --retrieval-learning-rates 1e-3 3e-3 --retrieval-batch-pairs 32 --retrieval-mini-batch 32 --retrieval-max-length 64)

evaluate() { # evaluate KIND ...: exec the evaluation of all models of these kinds
  local kind size models=()
  for kind in "$@"; do
    for size in "${sizes[@]}"; do models+=("$output/models/$kind-$size"); done
  done
  exec python tools/evaluate.py --model "${models[@]}" --suite all --data "$output/tasks" --output "$output/results" \
    "${protocol[@]}" "${evaluate_flags[@]}"
}

for size in "${sizes[@]}"; do train_four "$size"; done

stage "releases"
for size in "${sizes[@]}"; do
  for model in encoder:encoder/decay decoder:decoder/decay encoder_from_decoder:encoder_from_decoder \
    decoder_from_encoder:decoder_from_encoder; do
    name="${model%:*}-$size"
    release "$output/$size/${model#*:}" "${name//_/-}"
    mkdir -p "$output/tasks/intrinsic/${name//_/-}"
    for objective in mlm clm; do
      cp "$output/$size/eval/${model%:*}_$objective.json" "$output/tasks/intrinsic/${name//_/-}/$objective.json"
    done
  done
done

stage "tasks"
mine_all() {
  # Packages that are installed with this one, and are not part of the standard library's text.
  local packages=(matplotlib networkx pandas scipy sklearn sympy)
  rm -rf -- "${output:?}/mined"
  python tools/mine_tasks.py --source "${packages[@]}" --output "$output/mined"
  python tools/mine_pairs.py --source "${packages[@]}" --max-pairs 2000 --test-share 0.2 \
    --output "$output/mined/retrieval/docstrings"
  cp -r examples/eval_data/bias "$output/mined/bias"
  touch "$output/mined/done"
}
[[ -e $output/mined/done ]] || mine_all
for suite in "${suites[@]}"; do
  from="$output/mined/$suite"
  [[ -z $data || ! -d $data/$suite ]] || from="$data/$suite"
  ln -sfnr -- "$from" "$output/tasks/$suite"
done

stage "evaluation of every model on every suite, two at a time"
failed=""
evaluate encoder decoder-from-encoder >"$output/evaluate.log" 2>&1 & first=$!
trap 'kill "$first"' EXIT # Ctrl-C does not reach background processes
(evaluate decoder encoder-from-decoder) || failed=yes
wait "$first" || failed=yes
trap - EXIT
cat "$output/evaluate.log"

stage "figures and report"
python tools/compare.py "$output/results" --output "$output/comparison"
[[ -z $failed ]] || { echo "error: results are missing, see above; the same command retries them" >&2; exit 1; }
echo "made in $SECONDS s, in $output"
