#!/usr/bin/env bash
# Trains nano against the clock on a machine with GPUs, both stages, from nothing: worlds, packs, training, evaluation. Stage 1 of
# docs/results.md's nano was made with it. Two GPUs try two recipes side by side, one GPU the first of them.
#
#   benchmarks/learn_nano.sh OUT SECONDS        # SECONDS for everything, evaluation included
#
# Training seeds are 11 to 26. Worlds of other seeds are for evaluation: 2 here.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/usage.sh"; usage 2 "$@"
cd "$(dirname "$0")/.."
OUT=$(realpath -m "$1"); TOTAL=$2; START=$(date +%s)
PY=${PYTHON:-python3}; W=${WORLDS:-/tmp/worlds}; FIRST=${FIRST:-"11 12 13 14"}; MORE=${MORE:-"15 16 17 18 19 20 21 22 23 24 25 26"}
SCENES=${SCENES:-40}; FRAMES=${FRAMES:-20}; BATCH=${BATCH:-32}; FLAGS=${FLAGS:---precision bf16 --cuda-graph}
WARM=${WARM:-210}; SHARE2=${SHARE2:-0.5}; LAST=${LAST:-90}
C1=projects/configs/stage1_track_map/nano_track_map.py; C2=projects/configs/stage2_e2e/nano_e2e.py
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
mkdir -p "$OUT" "$W"
left() { echo $(($(cat "$OUT/seconds" 2> /dev/null || echo "$TOTAL") - $(date +%s) + START)); }  # OUT/seconds: a change of mind
say() { echo "[$(($(date +%s) - START)) s] $*" | tee -a "$OUT/log.txt"; }

CORES=$(env -u OMP_NUM_THREADS nproc); GPUS=$("$PY" -c 'import torch; print(max(1, torch.cuda.device_count()))')
say "$CORES cores, $GPUS GPU(s), $(df -h "$W" | tail -1)"
"$PY" benchmarks/masked_attention.py ${ATTENTION:-} > "$OUT/attention.txt" 2>&1 &
evaluation_world() {
  "$PY" tools/make_synthetic_nuscenes.py --out "$W/2" --train-scenes 1 --val-scenes "${EVAL_SCENES:-5}" --frames "${EVAL_FRAMES:-20}" \
    --seed 2 --workers 4 --quiet &&
  "$PY" tools/create_data.py nuscenes --root-path "$W/2" --out-dir "$W/2/infos" --extra-tag nuscenes --version v1.0-trainval \
    --canbus "$W/2" --workers 2
}
evaluation_world > "$OUT/world2.txt" 2>&1 &
packs() { "$PY" tools/make_packs.py $C1 --out "$W" --scenes "$SCENES" --frames "$FRAMES" "$@"; }
packs --seeds $FIRST --keep ${FIRST%% *} --jobs "$CORES" --at-once 4 >> "$OUT/packs.txt" 2>&1
say "first packs: $(tail -1 "$OUT/packs.txt")"
(nice -n 5 "$PY" tools/make_packs.py $C1 --out "$W" --scenes "$SCENES" --frames "$FRAMES" --seeds $MORE --jobs $((CORES > 8 ? CORES - 4 : CORES)) \
  --at-once 6 > "$OUT/packs_more.txt" 2>&1; touch "$W/more") &
"$PY" tools/make_motion_anchors.py $C2 --out "$W/others/motion_anchor_infos_mode6.pkl" \
  --cfg-options data_root="$W/${FIRST%% *}/" info_root="$W/${FIRST%% *}/infos/" anchor_root="$W/others/" > "$OUT/anchors.txt" 2>&1 &
pack_files() { ls "$W"/*.pt; }

# train GPU NAME SECONDS CONFIG OPTIONS...: until the clock ends it
train() {
  local gpu=$1 name=$2 seconds=$3; shift 3
  CUDA_VISIBLE_DEVICES=$gpu timeout -s TERM -k 30 "$seconds" "$PY" tools/train.py "$@" --work-dir "$OUT/$name" --packs $(pack_files) $FLAGS \
    --samples-per-gpu "$BATCH" --save-every 0 --no-tensorboard --resume none > "$OUT/$name.txt" 2>&1
  say "$name: $(tail -1 "$OUT/$name.txt" | cut -c1-200)"
}
# evaluate GPU NAME CONFIG OPTIONS
evaluate() {
  CUDA_VISIBLE_DEVICES=$1 "$PY" tools/test.py "$3" "$OUT/$2/latest.pth" --out "$OUT/$2.json" --cfg-options data_root="$W/2/" \
    info_root="$W/2/infos/" anchor_root="$W/others/" data.workers_per_gpu=3 $4 > "$OUT/$2.eval.txt" 2>&1
  say "$2 evaluated: rc $?"
}
# A schedule needs a length: how many steps fit into SECONDS at NAME's seconds a step, times FACTOR
steps() {
  "$PY" - "$OUT/$1/train.jsonl" "$2" "$3" <<P
import json, sys
times = [row["time"] for row in map(json.loads, open(sys.argv[1])) if row.get("mode") == "train"]
times = times[1:] or times  # the first holds compiling and recording
print(max(${MIN_STEPS:-20}, int(float(sys.argv[2]) / (sorted(times)[len(times) // 2] * float(sys.argv[3])))))
P
}
queue() { echo queue_length="$1" model.queue_length="$1" data.train.queue_length="$1"; }
each() { for gpu in $(seq 0 $((GPUS - 1))); do "$@" "$gpu" & PIDS+=($!); done; wait "${PIDS[@]}"; PIDS=(); }
PIDS=()

# 1. Clips of two frames on the first worlds, while the others are made. The second GPU carries tracks on as upstream does.
OPTIONS_1=("" "native.track_overlap=iou")
warm() { train "$1" "warm$1" "$WARM" $C1 --from-scratch --max-iters "${WARM_ITERS:-4000}" --cfg-options $(queue 2) optimizer.lr=8e-4 \
  lr_config.warmup_iters=100 lr_config.min_lr_ratio=0.5 log_config.interval=25 ${OPTIONS_1[$1]}; }
each warm
for gpu in $(seq 0 $((GPUS - 1))); do evaluate "$gpu" "warm$gpu" $C1 "" & done
until [ -e "$W/more" ] || [ "$(left)" -lt $((TOTAL / 2)) ]; do sleep 1; done
say "packs: $(pack_files | wc -l)"

# 2. Clips of three frames on all worlds. The second GPU does without the dense head.
FOR1=$("$PY" -c "print(int(($(left) - $LAST) * (1 - $SHARE2)))")
OPTIONS_2=("--dense-bev" "")
stage1() { train "$1" "one$1" "$((FOR1 + 20))" $C1 --max-iters "$(steps "warm0" $((FOR1 - 45)) "${FACTOR1:-1.4}")" ${OPTIONS_2[$1]} \
  --cfg-options $(queue 3) optimizer.lr=8e-4 lr_config.warmup_iters=50 lr_config.min_lr_ratio=0.02 log_config.interval=25 \
  load_from="$OUT/warm0/latest.pth"; }
each stage1
for gpu in $(seq 0 $((GPUS - 1))); do evaluate "$gpu" "one$gpu" $C1 "" & done

# 3. The heads of stage 2, alone.
FOR2=$(($(left) - LAST))
stage2() { train "$1" "two$1" "$((FOR2 + 20))" $C2 --max-iters "$(steps "one$1" $((FOR2 - 45)) "${FACTOR2:-0.7}")" \
  --cfg-options $(queue 2) optimizer.lr=8e-4 lr_config.warmup_iters=50 lr_config.min_lr_ratio=0.01 log_config.interval=25 \
  load_from="$OUT/one$1/latest.pth" anchor_root="$W/others/"; }
each stage2
evaluate_two() { evaluate "$1" "two$1" $C2 "${EVAL_OPTIONS:-}"; }
each evaluate_two
cp "$W/others/motion_anchor_infos_mode6.pkl" "$OUT/"
say done
touch "$OUT/done"
