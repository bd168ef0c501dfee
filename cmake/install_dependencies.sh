#!/bin/sh
# Installs what building, testing and running needs and is not there yet. Debian 12 or later, Ubuntu 24.04 or later; asks nothing.
# With `--ci`, also what .ci/run uses beyond that. Does nothing, quickly, where everything is there.
set -eu

missing=
# need PACKAGE [COMMAND]: the package, unless it is installed or, for a tool, something else provides the command.
need() {
  if [ $# -gt 1 ] && command -v "$2" >/dev/null 2>&1; then return; fi
  case $(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) in
    *' installed') ;;
    *) missing="$missing $1" ;;
  esac
}

if ! command -v apt-get >/dev/null 2>&1; then
  echo "$0: no apt-get here, so nothing is installed. Needed: a C++20 compiler, CMake 3.25, Ninja, Eigen 3.4, nlohmann-json," >&2
  echo "CLI11, fmt, doctest, Google Benchmark; or let CMake download the libraries with -DBLACKMAMBA_FETCH=ON." >&2
  exit 0
fi

need g++ g++
need cmake cmake
need ninja-build ninja
for library in libeigen3-dev nlohmann-json3-dev libcli11-dev libfmt-dev doctest-dev libbenchmark-dev; do need "$library"; done
if [ "${1:-}" = --ci ]; then
  need ccache ccache
  need clang clang++
  need clang-format clang-format
  need git git
  need libclang-rt-dev # the sanitizers and libFuzzer for clang
fi

[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "$0: not root, and there is no sudo. Install as root:$missing" >&2; exit 1; }
  as_root=sudo
fi
echo "installing$missing"
$as_root apt-get update -qq
# The list is words by design.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
