#!/usr/bin/env bash
# Runs everything that needs a CUDA GPU, in under ten minutes and without network: build, tests,
# compute-sanitizer, benchmarks. Writes one text file and fails if a step fails.
#
#   tools/gpu_suite.sh [file]                  default: output/gpu_suite.txt
#
# Environment: PYTHON (default: .venv/bin/python, else python3), TORCH_CUDA_ARCH_LIST (default: the
# visible GPU), SUITE_SECONDS (default: 570). PYTHONPATH is kept and may add packages.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

report=${1:-output/gpu_suite.txt}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
deadline=$((SECONDS + ${SUITE_SECONDS:-570}))
summary=()
failed=0
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 REQUIRE_GPU=1 FORCE_CUDA=1

mkdir -p "$(dirname "$report")"
: >"$report"

note() {
  summary+=("$(printf '%-12s %-28s %4d s' "$1" "$2" "$3")")
  echo "${summary[-1]}"
}

# step NAME SECONDS COMMAND... writes the output to the report and the status to the summary.
step() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS status
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  printf '\n==== %s: %s\n' "$name" "$*" >>"$report"
  if [ "$limit" -le 0 ]; then
    failed=1
    note "$name" "not run: no time left" 0
    return 1
  fi
  timeout --kill-after=5 "$limit" "$@" >>"$report" 2>&1 </dev/null
  status=$?
  case $status in
    0) note "$name" "passed" $((SECONDS - start)) ;;
    124 | 137) note "$name" "FAILED: $status, over $limit s" $((SECONDS - start)) ;;
    *) note "$name" "FAILED: exit status $status" $((SECONDS - start)) ;;
  esac
  [ "$status" -eq 0 ] || failed=1
  return "$status"
}

finish() {
  {
    printf '\n==== summary\n'
    printf '%s\n' "${summary[@]}"
  } >>"$report"
  echo "written to $report"
  exit "$failed"
}

sanitizer=$(PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin" \
  command -v compute-sanitizer)

{
  date -u '+%Y-%m-%d %H:%M UTC'
  echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv 2>&1
  "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>&1 | tail -n 2
  echo "compute-sanitizer: ${sanitizer:-not installed}"
} >>"$report"

step versions 60 "$python" -c '
import platform, torch, torchvision
assert torch.cuda.is_available(), "torch sees no CUDA device"
major, minor = torch.cuda.get_device_capability()
print("python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda,
      "torchvision", torchvision.__version__)
print("GPU", torch.cuda.get_device_name(), f"sm_{major}{minor}")' || finish

nvcc=$(PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH" command -v nvcc)
if [ -n "$nvcc" ]; then
  step build 180 "$python" setup.py build_ext --inplace || finish
elif compgen -G "mrcnn_plugin/_C_cuda*.so" >/dev/null; then
  note build "skipped: no nvcc, kernels present" 0
else
  note build "FAILED: no nvcc" 0
  failed=1
  finish
fi

# A file that cannot be imported does not stop the others.
step tests 180 "$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors \
  -m gpu tests

# Without torch's cache every tensor has its own allocation, so reads past its end are detected.
small=(-m pytest -q -p no:cacheprovider -m gpu tests/layers/test_roi_align_cuda.py
  -k "hostile or no_image or no_level or any_argmax or empty or layout or every_op")
# initcheck does not track writes of kernels other than ours, so this test copies all inputs from the
# host and runs our kernels only.
ours=(-m pytest -q -p no:cacheprovider -m gpu tests/layers/test_roi_align_cuda.py -k every_op)
if [ -z "$sanitizer" ]; then
  unusable="skipped: no compute-sanitizer"
elif ! timeout 60 "$sanitizer" "$python" -c 'import torch; torch.ones(1).cuda()' \
  >>"$report" 2>&1 </dev/null; then  # some virtual machines refuse it
  unusable="skipped: sanitizer unusable"
fi
if [ -z "${unusable:-}" ]; then
  kernels=--kernel-regex
  "$sanitizer" --help 2>/dev/null | grep -q -- --kernel-name && kernels=--kernel-name
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step memcheck 150 "$sanitizer" --tool memcheck \
    --error-exitcode 9 --target-processes all "$python" "${small[@]}"
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step initcheck 150 "$sanitizer" --tool initcheck \
    $kernels kns=mrcnn_plugin --error-exitcode 9 --target-processes all \
    "$python" "${ours[@]}"
  # Only NMS uses shared memory.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step racecheck 60 "$sanitizer" --tool racecheck \
    --error-exitcode 9 --target-processes all "$python" -m pytest -q -p no:cacheprovider \
    -m gpu tests/layers/test_nms.py -k "700 and 0.5"
else
  note memcheck "$unusable" 0
  note initcheck "$unusable" 0
  note racecheck "$unusable" 0
fi

step benchmark 150 "$python" benchmarks/roi_align.py --device cuda
step train_step 150 "$python" benchmarks/train_step.py --device cuda --rois 512 --repeats 10

finish
