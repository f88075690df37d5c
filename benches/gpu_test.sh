#!/usr/bin/env bash
# Holds the engine on a card to the processor's, and runs the kernels under compute-sanitizer. All that is printed stands in
# docs/gpu/<date>-<card>-tests.txt. Arguments go to gpu_test; without any, everything runs:
#
#     benches/gpu_test.sh                           # the suite, then memcheck and racecheck
#     benches/gpu_test.sh --only attention          # a part, without the sanitizer
#     benches/gpu_test.sh --sanitizer               # the sanitizer alone
set -uo pipefail
cd "$(dirname "$0")/.."
benches/gpu_programs.sh || exit 1
program=target/release/examples/gpu_test
if [ -d gpu-bundle ]; then
    program=gpu-bundle/gpu_test
    export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/gpu-bundle/cache}
fi
# NVRTC may stand in the environment of the Python that is on the path.
export VIRTUAL_ENV=${VIRTUAL_ENV:-$(python3 -c 'import sys; print(sys.prefix)' 2> /dev/null)}
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | sed -n '1{s/^NVIDIA //;s/[^A-Za-z0-9]\+/-/g;p}' | tr '[:upper:]' '[:lower:]')
mkdir -p docs/gpu
log=docs/gpu/$(date +%F)-${card:-none}-tests.txt

# The kernels by themselves; the sanitizer's slowness leaves no room for whole models.
kernels=products,thin-products,gated-products,decoding-products,attention,cached-attention,norms,head-norms,ropes,gates,embeddings,fills,head-and-loss,optimiser

sanitize() {
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | tail -1)
    if [ -z "$sanitizer" ]; then
        echo "compute-sanitizer is not on this machine: memory and races were not checked"
        return 0
    fi
    local status=0 tool
    for tool in memcheck racecheck; do
        echo "== $sanitizer --tool $tool"
        timeout "${SANITIZER_SECONDS:-240}" "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
            "$program" --size small --seed 1 --failures --only "$kernels"
        local code=$?
        [ $code -eq 124 ] && echo "== $tool: out of time" || echo "== $tool: exit status $code"
        [ $code -eq 0 ] || status=1
    done
    return $status
}

{
    date --iso-8601=minutes
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null
    echo "commit $(git rev-parse --short HEAD 2> /dev/null || cat gpu-bundle/commit 2> /dev/null)"
    case "${1:-}" in
    '') "$program" && suite=0 || suite=1
        sanitize && checked=0 || checked=1
        exit $((suite | checked)) ;;
    --sanitizer) sanitize ;;
    *) "$program" "$@" ;;
    esac
} 2>&1 | tee -a "$log"
exit "${PIPESTATUS[0]}"
