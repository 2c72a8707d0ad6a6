#!/usr/bin/env bash
# The Ettin paper in minutes on two CPU cores: an encoder and a decoder through all three phases, each then trained as
# the other kind, and all four evaluated under both objectives.
#
#   examples/ettin_nano.sh [--corpus FILE] [--output DIR] [--tokens N] [--text DIR] [--resume] [-- FLAG ...]
#
#   --corpus FILE   training text: .jsonl with a "text" in each line, or plain text (default: sources and docstrings of
#                   the Python standard library)
#   --output DIR    folder for all results (default: runs/ettin_nano); a previous run of this script there is replaced
#   --tokens N      length of the first phase (default: 1000000); the others are shorter in proportion
#   --text DIR      folder of another run whose text, tokenizer and tokens are shared, and created if missing (default:
#                   the output)
#   --resume        resume an interrupted run with the same settings
#   FLAG ...        for every training run, such as another shape: -- --hidden-size 96 --ffn-hidden-size 144
set -euo pipefail

usage() { sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
refuse() { echo "error: $1" >&2; exit 2; }

corpus=""
output="runs/ettin_nano"
tokens=1000000
text=""
resume=""
while (($#)); do
  case "$1" in
    --corpus | --output | --tokens | --text)
      (($# > 1)) || refuse "$1: a value is missing"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --resume) resume=yes; shift ;;
    --) shift; break ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "$1: unknown flag; --corpus FILE, --output DIR, --tokens N, --text DIR and --resume are known" ;;
  esac
done
shape=("$@")
[[ -z $corpus || -f $corpus ]] || refuse "--corpus $corpus: there is no such file"
[[ -z $corpus ]] || corpus="$(realpath -- "$corpus")"
[[ $tokens =~ ^[1-9][0-9]{3,8}$ ]] || refuse "--tokens $tokens: must be a whole number of 1000 or more"
mark="$output/.ettin_nano"
[[ ! -e $output || -e $mark ]] || refuse "--output $output: exists and was not made by this script"
[[ -z $text ]] || text="$(realpath --canonicalize-missing -- "$text")"
# The settings of a run; it can be resumed with equal settings only.
corpus_hash="$([[ -z $corpus ]] || sha256sum <"$corpus")"
settings="--tokens $tokens --corpus $corpus_hash --text $text -- ${shape[*]}"
[[ -z $resume || ! -e $mark || $(<"$mark") == "$settings" ]] \
  || refuse "$output was made with other settings: give those, or another --output"
[[ -z $text || ! -e $text/done/text || $(<"$text/done/text") == "$corpus_hash" ]] \
  || refuse "--text $text: was made from another --corpus"

# Inside the checkout, use relative paths: they are short in the final message.
home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $output == /* ]] || output="$(realpath --canonicalize-missing --relative-to="$home" -- "$output")"
cd "$home"
mark="$output/.ettin_nano"
[[ -n $resume ]] || rm -rf -- "$output"
text="${text:-$output}"
mkdir -p "$output/eval" "$output/done" "$text/data"
echo "$settings" >"$mark"
# All processes of this script inherit the lock, so those that outlive a kill are waited for.
exec {lock}>"$output/.lock"
flock --nonblock "$lock" || { echo "waiting for the processes of an interrupted run"; flock "$lock"; }

# Two ranks share two cores, with one thread each. Nothing is downloaded.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
# If no environment is active, use that of make install.
[[ -n ${VIRTUAL_ENV-} || ! -x .venv/bin/python ]] || PATH="$PWD/.venv/bin:$PATH"
data=(--config examples/configs/ettin_nano.yaml --data-path "$text/data/corpus_text_document" "${shape[@]}")

# After the first phase rows are twice as long, with RoPE bases to match, and the learning rate falls to half its peak,
# then to 0.02 of it; cross-training starts at half the peak. Each phase has its own seed, since all read the same text.
longer=(--seq-length 512 --rope-global-base 160000 --rope-local-base 160000 --lr-warmup-tokens 0)
part() { echo $((tokens * $1 / 100)); }
pretrain=(--train-tokens "$tokens" --lr-warmup-tokens "$(part 5)" --eval-interval-tokens "$(part 10)")
extend=("${longer[@]}" --seed 22 --lr-decay-style 1-sqrt --lr 1e-3 --min-lr 5e-4 --train-tokens "$(part 25)"
  --eval-interval-tokens "$(part 5)")
decay=("${longer[@]}" --seed 23 --lr-decay-style 1-sqrt --lr 5e-4 --min-lr 2e-5 --max-lr 1e-3 --mlm-probability 0.15
  --train-tokens "$(part 20)" --eval-interval-tokens "$(part 5)")
cross=("${longer[@]}" --lr-decay-style WSD --lr 5e-4 --min-lr 1e-5 --mlm-probability 0.15 --seed 210
  --train-tokens "$(part 30)" --lr-warmup-tokens "$(part 2)" --lr-wsd-decay-tokens "$(part 6)"
  --eval-interval-tokens "$(part 5)")

stage() { printf '\n[%3d s] %s\n' "$SECONDS" "$1"; }

once() { # once FOLDER NAME COMMAND [argument ...]: skipped if FOLDER/done records that it has finished
  [[ ! -e $1/done/$2 ]] || return 0
  "${@:3}"
  mkdir -p "$1/done"
  touch "$1/done/$2"
}

prepare() {
  stage "text, tokenizer, tokens"
  python tools/gather_corpus.py --output "$text/data/corpus.jsonl" --max-bytes 4000000 ${corpus:+--corpus "$corpus"}
  python tools/train_tokenizer.py --input "$text/data/corpus.jsonl" --output "$text/tokenizer" --vocab-size 4096
  python tools/preprocess_data.py --input "$text/data/corpus.jsonl" --output-prefix "$text/data/corpus" \
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$text/tokenizer" --workers 2
  mkdir -p "$text/done"
  echo "$corpus_hash" >"$text/done/text"
}

train() { # train FOLDER OBJECTIVE PHASE [flags]
  once "$output" "${1//\//_}" run_training "$@"
}

run_training() {
  stage "$1: --objective $2 --phase $3"
  rm -rf -- "${output:?}/$1"
  torchrun --standalone --nproc-per-node 2 -m megatron_ettin.pretrain "${data[@]}" \
    --tokenizer-model "$text/tokenizer" --objective "$2" --phase "$3" --save "$output/$1" "${@:4}"
}

measure() { # measure KIND FOLDER OBJECTIVE
  python -m megatron_ettin.pretrain "${data[@]}" --seq-length 512 --load "$output/$2" --eval-only --objective "$3" \
    | tail -n 1 \
    >"$output/eval/$1_$3.json"
}

once "$text" text prepare

for model in encoder:mlm decoder:clm; do
  kind=${model%:*} objective=${model#*:}
  train "$kind/pretrain" "$objective" pretrain "${pretrain[@]}"
  train "$kind/extend" "$objective" extend "${extend[@]}" --load "$output/$kind/pretrain"
  train "$kind/decay" "$objective" decay "${decay[@]}" --load "$output/$kind/extend"
done
train decoder_from_encoder clm cross "${cross[@]}" --load "$output/encoder/decay"
train encoder_from_decoder mlm cross "${cross[@]}" --load "$output/decoder/decay"

stage "all four under both objectives"
for model in encoder:encoder/decay decoder:decoder/decay encoder_from_decoder:encoder_from_decoder \
  decoder_from_encoder:decoder_from_encoder; do
  # One core each. Waiting by process number returns the exit code.
  kind=${model%:*} folder=${model#*:}
  once "$output" "eval_${kind}_mlm" measure "$kind" "$folder" mlm & first=$!
  once "$output" "eval_${kind}_clm" measure "$kind" "$folder" clm
  wait "$first"
done

stage "report"
once "$output" report python tools/report_four.py --runs "$output" --output "$output"
echo "made in $SECONDS s, in $output"
