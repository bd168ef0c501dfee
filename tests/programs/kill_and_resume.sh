#!/bin/bash
# kill_and_resume.sh FOLDER TRAIN ARGUMENT...
# Trains once without interruption and once killed (SIGKILL) at 20 random moments and resumed each time: weights and optimiser must be
# the same bytes. A run that ends between two kills is compared too, and begun anew. FOLDER is removed first, and made.
set -u
root=$1
shift
given=("$@" --steps 40 --length 16 --batch 2 --evaluation-windows 2 --d-ffn 16 --evaluate-every 1000 --checkpoint-every 2)
RANDOM=1

fail() {
  echo "kill_and_resume: $*"
  cat "$folder/log"
  exit 1
}
compare() {
  for name in model.safetensors optimiser.safetensors; do
    cmp "$folder/whole/latest/$name" "$folder/killed/latest/$name" || fail "$name differs after $killed kills"
  done
}

# survives KILLS NAME OPTION...
survives() {
  local kills=$1
  folder=$root/$2
  shift 2
  local train=("${given[@]}" "$@")
  rm -rf "$folder"
  mkdir -p "$folder"

  local start=${EPOCHREALTIME/[.,]/} span
  "${train[@]}" --out "$folder/whole" >"$folder/log" 2>&1 || fail "the uninterrupted run failed"
  span=$((${EPOCHREALTIME/[.,]/} - start))

  local finished=0 resumed=0 child status wait
  killed=0
  while [ "$killed" -lt "$kills" ]; do
    compgen -G "$folder/killed/step-????????" >/dev/null && resumed=$((resumed + 1))
    "${train[@]}" --out "$folder/killed" --resume >"$folder/log" 2>&1 &
    child=$!
    # From before the first instruction to a third of what the run takes.
    wait=$((span / 3 * RANDOM / 32768))
    sleep "$(printf '%d.%06d' $((wait / 1000000)) $((wait % 1000000)))"
    kill -KILL "$child" 2>/dev/null
    wait "$child" 2>/dev/null
    status=$?
    if [ "$status" -eq 137 ]; then
      killed=$((killed + 1))
    elif [ "$status" -eq 0 ]; then
      compare
      finished=$((finished + 1))
      rm -rf "$folder/killed"
    else
      fail "a resumed run ended with status $status"
    fi
  done
  "${train[@]}" --out "$folder/killed" --resume >"$folder/log" 2>&1 || fail "the last run failed"
  compare
  [ "$resumed" -gt 0 ] || fail "no run got as far as a checkpoint"
  echo "$*: $killed kills, $resumed runs resumed, $((finished + 1)) runs finished: the same bytes"
}

survives 20 one --threads 1 --router sinkhorn
survives 20 two --threads 2 --router bias
survives 20 bf16 --threads 2 --router bias --dtype bf16
cmp "$root/two/whole/latest/model.safetensors" <(
  "${given[@]}" --threads 1 --router bias --out "$root/again" >/dev/null 2>&1
  cat "$root/again/latest/model.safetensors"
) || fail "the weights differ between 1 and 2 threads"
