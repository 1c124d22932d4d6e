#!/usr/bin/env bash
# Every static check, or the ones named: `lint.sh ruff pyright`. CI, pre-commit and `make lint` all call this.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

check_ruff() { ruff format --check --quiet . && ruff check --quiet .; }
check_pyright() { pyright --warnings; }
check_imports() { lint-imports --no-logo; }
check_clang_format() {
  find src \( -name '*.cpp' -o -name '*.hpp' \) -print0 | xargs -0 --no-run-if-empty clang-format --dry-run --Werror
}
check_spelling() { codespell src tests docs examples scripts ./*.md; }

[ $# -gt 0 ] || set -- ruff imports clang_format spelling pyright
output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=''
for name in "$@"; do
  if "check_$name" >"$output" 2>&1; then
    printf 'lint: %-13s ok\n' "$name"
  else
    printf 'lint: %-13s FAILED\n' "$name"
    cat "$output"
    failed=yes
  fi
done
[ -z "$failed" ]
