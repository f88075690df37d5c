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
kernels=products,thin-products,gated-products,decoding-products,attention,cached-attention,norms,head-norms,ropes,gates,embeddings,fills,magnitudes,head-and-loss,optimiser

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

# Every case in a process of its own, one form after the other: a card that has met a fault is of no more use to its process,
# and a kernel that waits for ever ends with its time.
suite() {
    local seed=$((RANDOM * 32768 + RANDOM)) forms=sm80 failed=() about form case code
    # Nothing asynchronous is in this case: where it fails, it is no kernel's fault.
    about=$("$program" --only fills --forms sm80 --seed $seed 2>&1) || { echo "$about"; return 1; }
    sed -n '2,3p' <<< "$about"
    [[ $about == *'(sm_90)'* ]] && forms='native sm80'
    for form in $forms; do
        echo "== kernels: $form"
        for case in $("$program" --list); do
            timeout -k 10 "${CASE_SECONDS:-180}" "$program" --only "$case" --forms "$form" --seed $seed 2>&1 |
                grep -vE '^(seed|NVRTC|NVIDIA|case|[0-9]+ comparisons|$)'
            code=${PIPESTATUS[0]}
            [ $code -eq 0 ] && continue
            [ $code -eq 124 ] && echo "$case, $form: out of time; a kernel may be waiting for what never comes"
            failed+=("--only $case --forms $form")
        done
    done
    echo "seed $seed, ${#failed[@]} of the cases failed"
    [ ${#failed[@]} -eq 0 ] && return 0
    printf 'again: make test-gpu GPU_TEST="%s --seed '$seed'"\n' "${failed[@]}"
    return 1
}

{
    date --iso-8601=minutes
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null
    echo "commit $(git rev-parse --short HEAD 2> /dev/null || cat gpu-bundle/commit 2> /dev/null)"
    case "${1:-}" in
    '') suite && passed=0 || passed=1
        sanitize && checked=0 || checked=1
        exit $((passed | checked)) ;;
    --sanitizer) sanitize ;;
    *) "$program" "$@" ;;
    esac
} 2>&1 | tee -a "$log"
exit "${PIPESTATUS[0]}"
