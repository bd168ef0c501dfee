#!/bin/bash
# on_gpu.sh EXPECT PROGRAM ARGUMENT...
# Runs a program on a GPU: it must succeed, and what it prints must match EXPECT (extended regular expression). Where there is no
# GPU the program has to say so, in its sentence and with exit status 1; that is exit status 77 here.
set -u
expect=$1
shift
text=$("$@" 2>&1)
status=$?
printf '%s\n' "$text"
if [ "$status" -eq 1 ] && grep -q 'no NVIDIA GPU can be used here: .*; the CPU contexts work without one' <<<"$text"; then exit 77; fi
[ "$status" -eq 0 ] || { echo "exit status $status, not 0"; exit 1; }
grep -qE -e "$expect" <<<"$text" || { echo "the output does not match \"$expect\""; exit 1; }
