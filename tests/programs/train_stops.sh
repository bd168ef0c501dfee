#!/bin/bash
# train_stops.sh TRAIN SCORE GENERATE FOLDER TEXT
# Stops training in the ways a run can stop, looks at the sentence and at what is left, and loads it in the other programs. FOLDER is
# removed first, and made.
set -u
train=$1 score=$2 generate=$3 folder=$4 text=$5
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder" || exit 1
any=(--data "$text" --length 16 --batch 2 --evaluation-windows 2 --checkpoint-every)
small=("${any[@]}" 2 --d-ffn 16)

fail() {
  echo "train_stops: $*"
  cat log
  exit 1
}
# stops EXPECTED COMMAND...: fails with a status that is no signal's, and says so.
stops() {
  local expected=$1 status
  shift
  "$@" >log 2>&1
  status=$?
  [ "$status" -gt 0 ] && [ "$status" -lt 126 ] || fail "status $status of: $*"
  grep -qE -- "$expected" log || fail "no '$expected' from: $*"
}
runs() { "$@" >log 2>&1 || fail "status $? of: $*"; }
loads() {
  runs "$score" --model "$1/latest" --text "$text" "${@:2}"
  runs "$generate" --model "$1/latest" --prompt a --max-new-tokens 4 "${@:2}"
}

runs "$train" "${small[@]}" --steps 4 --out used
stops 'holds a run of 4 steps; give --resume' "$train" "${small[@]}" --steps 4 --out used
stops 'the run had clip 1, and is to go on with 2' "$train" "${small[@]}" --clip 2 --steps 4 --out used --resume
stops 'the run had router top1, and is to go on with bias' "$train" "${small[@]}" --router bias --steps 4 --out used --resume
stops 'the run had seed 0, and is to go on with 1' "$train" "${small[@]}" --seed 1 --steps 4 --out used --resume
loads used

# Tokens 1 and 300 in 16 bits each.
printf '\001\000\054\001%.0s' {1..100} >tokens.bin
stops 'tokens.bin: token 1 is 300, outside the vocabulary of 256' \
  "$train" --data tokens.bin "${small[@]:2}" --held-out 0.5 --steps 4 --out none

# A rate that breaks the weights, from a checkpoint on.
stops 'step [0-9]+: .*(NaN|nan|inf|norm)' "$train" "${small[@]}" --steps 40 --out broken --learning-rate 1e2 --warmup 40
loads broken

# A disk without room: the first checkpoint fits, as that of the next does not once files may have a few kilobytes only.
runs "$train" "${small[@]}" --steps 4 --schedule constant --warmup 0 --out full
stops 'cannot be written: File too large' \
  bash -c 'ulimit -f 3000; "$@"' limited "$train" "${small[@]}" --steps 8 --schedule constant --warmup 0 --out full --resume
[ -d full/step-00000004 ] || fail "the checkpoint before the full disk is gone"
compgen -G 'full/*.partial-*' >/dev/null && fail "a part of a checkpoint was left"
loads full
runs "$train" "${small[@]}" --steps 8 --schedule constant --warmup 0 --out full --resume

# Ctrl-C. A job in the background ignores SIGINT unless it is told not to, which is what job control does.
set -m
"$train" "${any[@]}" 0 --d-ffn 16 --steps 1000000 --out interrupted >log 2>&1 &
child=$!
set +m
for ((i = 0; i < 300; ++i)); do
  grep -q '"step"' interrupted/metrics.jsonl 2>/dev/null && break
  sleep 0.1
done
sleep 0.2
kill -INT "$child"
wait "$child" || fail "status $? after Ctrl-C"
grep -q 'go on with --resume' log || fail "no way to go on after Ctrl-C"
loads interrupted

for dtype in bf16 f16; do
  runs "$train" "${small[@]}" --steps 2 --dtype "$dtype" --out "$dtype"
  loads "$dtype" --dtype "$dtype"
done
runs "$train" "${any[@]}" 2 --steps 2 --experts 16 --d-ffn 64 --top-k 2 --shared-experts 1 --router switch --out fine
loads fine
echo "every stop has its sentence, and every checkpoint loads"
