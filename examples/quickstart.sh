#!/usr/bin/env bash
# From plain text to a released encoder and decoder in minutes on two CPU cores.
#
#   examples/quickstart.sh [--corpus FILE] [--output DIR]
#
#   --corpus FILE   training text: .jsonl with a "text" in each line, or plain text (default: sources and docstrings of
#                   the Python standard library)
#   --output DIR    folder for all results (default: runs/quickstart); a previous quickstart there is replaced
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
refuse() { echo "error: $1" >&2; exit 2; }

corpus=""
output="runs/quickstart"
while (($#)); do
  case "$1" in
    --corpus | --output)
      (($# > 1)) || refuse "$1: a value is missing"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "$1: unknown flag; --corpus FILE and --output DIR are known" ;;
  esac
done
[[ -z $corpus || -f $corpus ]] || refuse "--corpus $corpus: there is no such file"
[[ -z $corpus ]] || corpus="$(realpath -- "$corpus")"
mark="$output/.quickstart"
[[ ! -e $output || -e $mark ]] || refuse "--output $output: exists and was not made by this script"

# Inside the checkout, use relative paths: they are short in the final message.
home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $output == /* ]] || output="$(realpath --canonicalize-missing --relative-to="$home" -- "$output")"
cd "$home"
rm -rf -- "$output"
mkdir -p "$output"
touch "$output/.quickstart"

# Two ranks share two cores, with one thread each. Nothing is downloaded.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# If no environment is active, use that of make install.
[[ -n ${VIRTUAL_ENV-} || ! -x .venv/bin/python ]] || PATH="$PWD/.venv/bin:$PATH"
config=examples/configs/quickstart.yaml
half=$(($(awk '$1 == "train-iters:" {print $2}' "$config") / 2))
data=(--data-path "$output/data/corpus_text_document" --tokenizer-model "$output/tokenizer")

stage() { printf '\n[%3d s] %s\n' "$SECONDS" "$1"; }

pretrain() { # pretrain FOLDER OBJECTIVE [flags]
  torchrun --standalone --nproc-per-node 2 -m megatron_ettin.pretrain --config "$config" --objective "$2" \
    "${data[@]}" --save "$output/$1" "${@:3}"
}

stage "1. text"
mkdir -p "$output/data"
python tools/gather_corpus.py --output "$output/data/corpus.jsonl" --max-bytes 4000000 ${corpus:+--corpus "$corpus"}

stage "2. tokenizer"
python tools/train_tokenizer.py --input "$output/data/corpus.jsonl" --output "$output/tokenizer" --vocab-size 4096

stage "3. tokens"
python tools/preprocess_data.py --input "$output/data/corpus.jsonl" --output-prefix "$output/data/corpus" \
  --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$output/tokenizer" --workers 2

for model in encoder:mlm decoder:clm; do
  folder=${model%:*} objective=${model#*:}
  stage "4. $folder: first half"
  pretrain "$folder" "$objective" --exit-interval "$half"
  stage "4. $folder: second half, from the checkpoint"
  pretrain "$folder" "$objective" --load "$output/$folder"
done

for folder in encoder decoder; do
  stage "5. $folder: to Hugging Face"
  python tools/convert_to_hf.py --load "$output/$folder" --save "$output/$folder/hf"
done

stage "6. report"
python tools/report_pair.py --encoder "$output/encoder" --decoder "$output/decoder" --output "$output"

cat <<TEXT

made in $SECONDS s, in $output:
  encoder/ decoder/  checkpoints (step_*), hf/, tensorboard/, metrics.jsonl
  loss.png           both loss curves
  report.json        the measurements above
  tokenizer/ data/   tokenizer, text and tokens

next steps:
  tensorboard --logdir $output
  examples/quickstart.sh --corpus your_text.jsonl --output runs/mine
  python -c "from transformers import pipeline; print(pipeline('fill-mask', '$output/encoder/hf')('Return a [MASK] of all names.'))"
  torchrun --nproc-per-node 2 -m megatron_ettin.pretrain --help
TEXT
