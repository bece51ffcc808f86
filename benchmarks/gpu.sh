#!/usr/bin/env bash
# All measurements on a machine with a GPU, at most LIMIT seconds a call; results go to $OUT.
#
#   DATA=.data bash benchmarks/gpu.sh                         on a GPU, at most 10 minutes
#   DATA=.data bash benchmarks/gpu.sh                         again: only continues the training
#   DEVICE=cpu TOY=1 LIMIT=60 DATA=... bash benchmarks/gpu.sh tests this script at toy sizes
#
# The first call runs the CUDA tests, the benchmark tables and every method's step, and trains for the remaining time.
# Later calls only train: three calls make half an hour of training.  Each ends with sample grids, log and scores.
# Every part has its own time limit and keeps its output if it is cut off.
#
# DATA: a folder with cat2dog/{trainA,trainB,testA,testB}; NAME: another data set in it.
# RUN: folder kept between calls (its checkpoint has 1.3 GB); SIZE: side of the pictures, 128.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-results/gpu} DATA=${DATA:-.data} NAME=${NAME:-cat2dog} RUN=${RUN:-results/gpu_run}
DEVICE=${DEVICE:-cuda} LIMIT=${LIMIT:-590} TOY=${TOY:-} SIZE=${SIZE:-128} PYTHON=${PYTHON:-python3}
SMALL="" STEPS=100000 FREQ=500 BASE=nice CASE=256 CASE4="256 b4" ROUNDS=(--rounds 3 --warm 2 --seconds 0.5)
METHODS=(cyclegan ugatit cut fastcut gcgan distancegan unit munit drit sincut sincyclegan)
if [ -n "$TOY" ]; then
  SIZE=48 STEPS=1000000 FREQ=20 CASE=tiny CASE4="tiny b4"
  ROUNDS=(--rounds 1 --warm 0 --seconds 0.01)
  SMALL="--ch 2 --n_res 1 --n_dis 6"
  BASE="nice --img_size 48 $SMALL"
  METHODS=("gcgan --img_size 48 --ch 2 --n_res 1")
fi
mkdir -p "$OUT" "$RUN"
export PYTHONUNBUFFERED=1

# part SECONDS FILE COMMAND...: append its output to FILE; cut off after SECONDS or when the time left is over
part() {
  local seconds=$1 file=$2 left=$((LIMIT - SECONDS - RESERVE))
  shift 2
  [ "$seconds" -gt "$left" ] && seconds=$left
  [ "$seconds" -lt 3 ] && { echo "no time left: $*" >> "$OUT/$file"; return; }
  local begin=$SECONDS
  timeout -s TERM -k 5 "$seconds" "$@" 2>&1 | tail -c 8000 >> "$OUT/$file"
  echo "$((SECONDS - begin)) s, status ${PIPESTATUS[0]}: $*" | tee -a "$OUT/parts.txt"
}

bench() {
  local seconds=$1
  shift
  part "$seconds" bench.md "$PYTHON" benchmarks/bench.py --device "$DEVICE" "${ROUNDS[@]}" "$@"
}

rm -f "$OUT"/{machine.txt,parts.txt,tests.txt,bench.md,train.txt,scores.txt}
{ nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || uname -m; } 2> /dev/null | tee "$OUT/machine.txt"

RESERVE=$((LIMIT / 3)) # seconds reserved for training, translation and scores in the first call
if [ ! -e "$RUN/measured" ]; then
  if [ -z "$TOY" ]; then part 100 tests.txt "$PYTHON" -m pytest -o addopts=-q -m cuda; fi
  bench 50 --cases "$CASE" "$CASE4" # each step as one CUDA graph, if possible
  bench 25 --cases "$CASE" --ours "--graphs false"
  bench 30 --cases "$CASE" --extra "--benchmark_flag true"
  bench 40 --cases "$CASE" "$CASE4" --ours "--amp bf16"
  if [ -z "$TOY" ]; then bench 60 --cases "$CASE" --ours "--amp bf16 --compile true"; fi
  bench 85 --base "$BASE" --methods "${METHODS[@]}"
  touch "$RUN/measured"
fi

# on SIGTERM the training finishes its step and saves
RESERVE=$((LIMIT / 5))
# shellcheck disable=SC2086
part "$LIMIT" train.txt "$PYTHON" main.py --dataset "$NAME" --dataset_dir "$DATA" --result_dir "$RUN" --device "$DEVICE" \
  --img_size "$SIZE" $SMALL --iteration "$STEPS" --print_freq "$FREQ" --cache true --resume auto

RESERVE=6
part $((LIMIT / 10)) test.txt "$PYTHON" main.py --phase test --dataset "$NAME" --dataset_dir "$DATA" --result_dir "$RUN" \
  --device "$DEVICE"
for domain in A B; do
  for features in inception efficientnet-lite0; do
    part $((LIMIT / 20 + 10)) scores.txt "$PYTHON" fid_kid.py "$DATA/$NAME/test$domain" "$RUN/$NAME/fake$domain" \
      --features "$features" -c "${DEVICE/#cpu/}"
    grep -q FID "$OUT/scores.txt" && break # inception needs a download, efficientnet-lite0 a package
  done
done
cp "$RUN/$NAME/log.jsonl" "$OUT/log.jsonl"
for grid in A2B B2A; do
  last=$(find "$RUN/$NAME/img" -name "${grid}_*.png" 2> /dev/null | sort | tail -n 1)
  [ -n "$last" ] && cp "$last" "$OUT/$grid.png"
done
echo "$SECONDS s of $LIMIT" | tee -a "$OUT/parts.txt"
