#!/usr/bin/env bash
# Makes .venv fit to run (`setup.sh run`) or to develop in (`setup.sh dev`); does nothing when it
# already is. It never touches anything outside this folder but pip's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-run}

say() { printf 'tidemill: %s\n' "$*" >&2; }
stop() { say "$1"; exit 3; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    printf '%s' "$candidate" && return
  done
  stop "no Python >= 3.11 found; install one (Debian: apt-get install python3 python3-venv) or set PYTHON=/path/to/python3."
}

check_compiler() {
  local compiler=${CXX:-c++}
  command -v "$compiler" >/dev/null 2>&1 \
    || stop "no C++ compiler '$compiler' found; install one (Debian: apt-get install g++) or set CXX."
  printf '#include <bit>\nint main() { return std::popcount(0u); }\n' \
    | "$compiler" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null \
    || stop "'$compiler' does not compile C++20; install GCC >= 11 or Clang >= 14, or set CXX to one."
}

# What the installation depends on; Python sources are used in place and need no reinstallation.
fingerprint() {
  {
    "$python" -c 'import sys; print(sys.version)'
    printf '%s %s %s\n' "$mode" "${CXX:-c++}" "$PWD"  # a .venv does not survive a move
    cat pyproject.toml CMakeLists.txt requirements/*.txt
    find src \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cpp.in' \) -print0 | sort -z | xargs -0 cat
  } | sha256sum | cut -d' ' -f1
}

python=$(find_python)
stamp=.venv/.tidemill-$mode
wanted=$(fingerprint)
if [ -x .venv/bin/tidemill ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

check_compiler
if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  "$python" -c 'import venv, ensurepip' 2>/dev/null \
    || stop "$python has no venv module; install it (Debian: apt-get install python3-venv)."
  say "creating .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
log=.venv/setup.log
say "installing tidemill ($mode) into .venv; compiling the kernels takes about a minute (log: $log)"
extra=''
[ "$mode" = dev ] && extra='[dev,ray,torch,triton]'
if ! .venv/bin/python -m pip install --disable-pip-version-check --quiet \
  -c requirements/constraints.txt -e ".$extra" >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  stop "the installation failed; the lines above say why, the whole log is in $log."
fi
printf '%s\n' "$wanted" >"$stamp"
say "ready"
