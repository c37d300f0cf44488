#!/usr/bin/env bash
# The tables of docs/results.md: hours of two cores. Stopped at any point, the same command goes on.
#
#     benchmarks/tables.sh DATA LOGS [MODEL]      # DATA: question sets as JSONL, and haystacks/
#
# Windows are held to 2,048 tokens, so that documents are several windows long.
set -euo pipefail
data=$1 logs=$2 model=${3:-embedded}
reader=${READER:-.venv/bin/reader}
strategies=coa,evidence=coa,memwalker,small=memwalker,graphreader,shared=graphreader,memagent,revisions=memagent,map_reduce,quotes
variants=(-o evidence:preset=evidence -o small:preset=small -o shared:notebooks=shared -o revisions:preset=revisions)

run() { # folder, then the arguments
  local folder=$1
  shift
  "$reader" eval "$@" --strategy "$strategies" "${variants[@]}" --model "$model" --window 2048 \
    --log-dir "$logs/$folder" --yes
  "$reader" eval report "$logs/$folder"
}

run hotpotqa "$data/hotpotqa.dev.jsonl.gz" --limit 40
run musique "$data/musique.dev.jsonl.gz" --limit 30
run fairytaleqa "$data/fairytaleqa.dev.jsonl.gz" --limit 20
run needle needle --set-option lengths=4k,8k,16k,32k --set-option items=10 --set-option "haystack=$data/haystacks"
run babilong babilong --set-option lengths=4k,8k,16k,32k --set-option items=10 --set-option "haystack=$data/haystacks"
