#!/usr/bin/env bash
# Copies a real folder, Python's own standard library, into a fresh folder below build/run.
# Called by `make run` with the folder of the environment's programs.
set -euo pipefail
bin=$1
source=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir -p build/run
work=$(mktemp -d build/run/XXXXXX)

echo "\$ $bin/multitask copy $source $work/copy"
status=0
"$bin/multitask" copy "$source" "$work/copy" || status=$?

# Older copies go only now: removing files just before making others slows some file systems down.
find build/run -mindepth 1 -maxdepth 1 -type d ! -path "$work" -exec rm -rf {} +
exit "$status"
