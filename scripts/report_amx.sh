#!/bin/sh
# What a CPU with AMX does with prompts: kernels against the peak of its tiles, passes of 16 to 2,048
# tokens with tiles and without, and how far results are from f32 (the last part, by default on the
# fastest instruction set, needs `pip install llama-cpp-python`). Takes some minutes.
#
# usage: scripts/report_amx.sh FILE.gguf [THREADS]
set -eu
file=$1
threads=${2:-$(nproc)}
lscpu | grep -E 'Model name|^CPU\(s\)|L[123]' || true
for isa in amx avx512vnni; do
    printf '\n## %s\n' "kernels, one thread, --isa $isa"
    python -m linnet bench --ops Q4_K,Q6_K,Q8_0,Q4_0,Q5_K,Q3_K -t 1 --isa $isa |
        grep -E 'kernel|---|  512 '
done
for isa in amx avx512vnni; do
    printf '\n## %s\n' "prompts, $threads threads, --isa $isa"
    python -m linnet bench -m "$file" -p 16,64,256,512,2048 -n 0 -r 3 -t "$threads" --isa $isa
done
printf '\n## %s\n' "exactness"
python scripts/compare_exactness.py "$file"
