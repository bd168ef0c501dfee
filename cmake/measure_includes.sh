#!/bin/bash
# What including a header costs: compiler seconds (user + system, the least of REPEAT runs, 1 unless told) and lines after preprocessing, for a file that
# includes it and nothing else, as a table. Without arguments: each layer's headers that others include.
#   cmake/measure_includes.sh [blackmamba/core/view.hpp ...]      CXX and CXXFLAGS are respected
set -euo pipefail
cd "$(dirname "$0")/../include"

compiler=(${CXX:-g++} -std=c++20 ${CXXFLAGS:--O2})
headers=("$@")
if [ ${#headers[@]} -eq 0 ]; then
  mapfile -t headers < <(find blackmamba -name '*.hpp' ! -path '*/ops/*' | sort
                         for op in blackmamba/ops/*/; do ls "$op$(basename "$op").hpp" 2>/dev/null || true; done)
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
TIMEFORMAT='%U %S'

# seconds CONTENT: the least of REPEAT compilations.
seconds() {
  printf '%s\n' "$1" >"$scratch/one.cpp"
  for ((i = 0; i < ${REPEAT:-1}; ++i)); do
    { time "${compiler[@]}" -I . -c "$scratch/one.cpp" -o "$scratch/one.o" 2>"$scratch/messages"; } 2>&1
  done | awk '{ s = $1 + $2; if (NR == 1 || s < least) least = s } END { printf "%.2f", least }'
}

lines() {
  printf '%s\n' "$1" >"$scratch/one.cpp"
  "${compiler[@]}" -I . -E -P "$scratch/one.cpp" | wc -l
}

echo "| include | seconds | lines |"
echo "|---|---:|---:|"
row() { printf '| `%s` | %s | %s |\n' "$1" "$(seconds "$2")" "$(lines "$2")"; }
row "(an empty file)" ""
for header in Eigen/Core nlohmann/json.hpp; do
  folder=
  [ "$header" = Eigen/Core ] && [ -e /usr/include/eigen3/Eigen/Core ] && folder=eigen3/
  row "$header" "#include <$folder$header>"
done
for header in "${headers[@]}"; do row "$header" "#include <$header>"; done
