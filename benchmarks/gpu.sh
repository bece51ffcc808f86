#!/usr/bin/env bash
# One call for a machine with a GPU: the CUDA tests, the side-by-side tables, then real training for
# as long as fits.  Writes tables, sample grids and the log to $OUT (default: results/gpu).
#
#   DATA=.data TRAIN_SECONDS=120 bash benchmarks/gpu.sh
#
# DATA: a folder that holds cat2dog/{trainA,trainB,testA,testB}.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-results/gpu}
DATA=${DATA:-.data}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$OUT/machine.txt"

python3 -m pytest -m cuda 2>&1 | tail -n 20 | tee "$OUT/tests.txt"

{
  echo "exact"
  timeout 80 python3 benchmarks/bench.py --cases 256 128 --rounds 5
  echo "each method's step, in units of NICE-GAN's"
  timeout 150 python3 benchmarks/bench.py --rounds 3 --methods cyclegan ugatit cut fastcut gcgan unit munit
  echo "bf16, compiled"
  timeout 130 python3 benchmarks/bench.py --cases 256 --rounds 5 --extra "--amp bf16 --compile true"
  timeout 80 python3 benchmarks/bench.py --scaling --rounds 1
} 2>&1 | tee "$OUT/bench.md"

# SIGTERM lets the training finish its step and save
timeout -s TERM "${TRAIN_SECONDS:-120}" python3 main.py --dataset cat2dog --dataset_dir "$DATA" --result_dir "$OUT/run" \
  --img_size 256 --decay_flag false --print_freq 500 --cache true 2>&1 | tail -c 2000 | tee "$OUT/train.txt"
cp "$OUT"/run/cat2dog/log.jsonl "$OUT/log.jsonl"
for grid in A2B B2A; do cp "$(ls "$OUT"/run/cat2dog/img/${grid}_*.png | tail -n 1)" "$OUT/$grid.png"; done
rm -rf "$OUT/run" # the checkpoint has 1.3 GB; what comes back are the grids and the log
