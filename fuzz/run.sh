#!/bin/sh
# Builds the fuzz targets with AddressSanitizer, debug assertions and overflow checks, runs each for some seconds, and prints a table.
# Usage: fuzz/run.sh SECONDS [TARGET ...]
#
# The compiler is the stable one: RUSTC_BOOTSTRAP allows the flags of the sanitizer, and a C++ compiler builds libFuzzer. What a run
# finds is in fuzz/artifacts/TARGET, and its log in fuzz/target/logs.
set -eu
cd "$(dirname "$0")"
seconds=$1
shift
all=$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml)
targets=${*:-$all}
triple=$(rustc -vV | sed -n 's/^host: //p')

# The versions of the workspace.
cp ../Cargo.lock Cargo.lock
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Cdebug-assertions -Coverflow-checks"
${CARGO:-cargo} build --release --quiet --target "$triple"

mkdir -p target/logs
printf '%-14s %12s %10s %10s %9s\n' target executions "per second" coverage findings
failed=0
for target in $targets; do
    mkdir -p "corpus/$target" "artifacts/$target"
    log=target/logs/$target
    found=0
    # A leak is one of the fuzzer's own process: the VMM's descriptors and memory are counted by the Linux tests.
    ASAN_OPTIONS=detect_leaks=0 "target/$triple/release/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 >"$log" 2>&1 ||
        { found=1 failed=1; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    printf '%-14s %12s %10s %10s %9s\n' "$target" "${runs:--}" "${rate:--}" "${covered:--}" "$found"
    test $found -eq 0 || grep -hE 'panicked at|^SUMMARY|ERROR: |Test unit written' -A1 "$log" | head -8
done
exit $failed
