#!/usr/bin/env bash
# The programs that test and time the engine on a card: those of gpu-bundle/ where it is, else built.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -d gpu-bundle ]; then
    for packed in gpu-bundle/*.gz; do
        [ ! -e "$packed" ] || gzip -dkf "$packed"
    done
    chmod +x gpu-bundle/gpu_test gpu-bundle/gpu_bench
    gpu-bundle/gpu_bench --list > /dev/null || {
        echo "gpu-bundle/ was built for $(cat gpu-bundle/glibc), this machine has $(ldd --version | sed -n 1p)"
        exit 1
    }
else
    ${CARGO:-cargo} build --release --workspace --all-targets --locked
fi
