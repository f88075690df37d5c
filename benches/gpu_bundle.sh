#!/usr/bin/env bash
# Packs what a machine with a card needs where there is no cargo into gpu-bundle/: the two programs, stripped and compressed,
# and the kernels compiled for Hopper, so that no minute of the card goes into compiling. They count only for the NVRTC
# version that compiled them; another one compiles anew.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=target/release/examples
rm -rf gpu-bundle
mkdir -p gpu-bundle/cache
for program in gpu_test gpu_bench; do
    strip -o "gpu-bundle/$program" "$programs/$program"
    objdump -T "gpu-bundle/$program" | grep -o 'GLIBC_[0-9.]*' >> gpu-bundle/glibc
    gzip -9 "gpu-bundle/$program"
done
sort -uV -o gpu-bundle/glibc gpu-bundle/glibc
sed -i -n '$p' gpu-bundle/glibc
XDG_CACHE_HOME=$PWD/gpu-bundle/cache VIRTUAL_ENV=${NVRTC_ENV:-.venv/nvrtc} "$programs/gpu_test" --compile sm_90a
git rev-parse --short HEAD > gpu-bundle/commit 2> /dev/null || true
echo "gpu-bundle/: $(du -sh gpu-bundle | cut -f1), needs $(cat gpu-bundle/glibc) or later"
