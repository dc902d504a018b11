#!/bin/sh
# Compare the protos with those of the main branch's last commit, where there is one with protos.
# A fresh clone knows the branch as `main`, a checkout of a pull request as `origin/main`.
set -eu
buf=$1
for base in origin/main main; do
  if git cat-file -e "$base:protos/podbay/v1" 2>/dev/null; then
    commit=$(git rev-parse "$base")
    exec "$buf" breaking --against ".git#ref=$commit"
  fi
done
echo "buf breaking: no main branch with protos to compare with, nothing can be broken"
