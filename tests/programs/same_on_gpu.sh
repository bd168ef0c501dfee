#!/bin/bash
# same_on_gpu.sh PROGRAM ARGUMENT...: what the program prints with --device cuda is what it prints with --device cpu.
set -u
here=$("$@" --device cpu) || exit 1
there=$(bash "$(dirname "$0")/on_gpu.sh" '.' "$@" --device cuda)
status=$?
[ "$status" -eq 0 ] || { printf '%s\n' "$there"; exit "$status"; }
printf 'cpu:  %s\ncuda: %s\n' "$here" "$there"
[ "$here" = "$there" ]
