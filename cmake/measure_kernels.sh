#!/bin/bash
# What an operation's kernels cost to compile: compiler seconds (user + system) of one file that includes the operation's kernels, and
# how many more where its functions are instantiated in bf16 (float where there is only that), or in every scalar. As a table; without
# arguments for every operation.
#   cmake/measure_kernels.sh [OPERATION ...]      NVCC, NVCCFLAGS and ARCHITECTURE (90a unless told) are respected
set -euo pipefail
cd "$(dirname "$0")/../include"

architecture=${ARCHITECTURE:-90a}
compiler=("${NVCC:-nvcc}" -std=c++20 ${NVCCFLAGS:--O2} "-gencode=arch=compute_$architecture,code=sm_$architecture" -I . -isystem
          /usr/include/eigen3)
operations=("$@")
if [ ${#operations[@]} -eq 0 ]; then
  mapfile -t operations < <(ls -d blackmamba/ops/*/*cuda.cuh | cut -d/ -f3 | sort -u)
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
TIMEFORMAT='%U %S'

# seconds: of compiling $scratch/one.cu.
seconds() {
  local times
  times=$({ time "${compiler[@]}" -c "$scratch/one.cu" -o "$scratch/one.o" 2>"$scratch/messages"; } 2>&1) ||
    { cat "$scratch/messages" >&2; return 1; }
  awk '{ printf "%.1f", $1 + $2 }' <<<"$times"
}

# file OPERATION MACROS: writes the file that instantiates what MACROS, four of them, make of the operation's functions.
file() {
  {
    for header in blackmamba/ops/"$1"/*cuda.cuh; do echo "#include <$header>"; done
    cat <<END
#include <blackmamba/ops/cuda_operations.cuh>
#define NOTHING(name, Args)
#define BF16(name, Args) template void name<bf16>(Cuda const&, Args<bf16> const&);
#define FLOAT(name, Args) template void name<float>(Cuda const&, Args<float> const&);
#define PAIR(name, Args) template void name<float, bf16>(Cuda const&, Args<float, bf16> const&);
namespace blackmamba {
BLACKMAMBA_CUDA_$1($2)
}
END
  } >"$scratch/one.cu"
}

echo "| operation | its headers, s | one scalar, s | every scalar, s |"
echo "| --- | ---: | ---: | ---: |"
for operation in "${operations[@]}"; do
  file "$operation" "NOTHING, NOTHING, NOTHING, NOTHING"
  headers=$(seconds)
  file "$operation" "BF16, FLOAT, BLACKMAMBA_INSTANTIATE_PLAIN, PAIR"
  one=$(seconds)
  file "$operation" "$(printf 'BLACKMAMBA_INSTANTIATE_%s, ' STORAGE ACCUMULATOR PLAIN)BLACKMAMBA_INSTANTIATE_CONVERSION"
  all=$(seconds)
  awk -v op="$operation" -v h="$headers" -v o="$one" -v a="$all" '
    function more(s) { return s < 1.5 ? "≤ 1" : sprintf("%.0f", s) }
    BEGIN { printf "| `%s` | %.0f | %s | %s |\n", op, h, more(o - h), more(a - h) }'
done
