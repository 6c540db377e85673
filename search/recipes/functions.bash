# What the recipes share. RUNS is where runs and evaluations go, DATA where torchvision's data sets are.
set -euo pipefail
RUNS=${RUNS:-runs} DATA=${DATA:-data}

# search NAME ARGUMENT…: a search into $RUNS/NAME, unless it is there; one that was cut off continues.
search() {
    local out=$RUNS/$1
    shift
    if [ -f "$out/diagnosis.json" ]; then return; fi
    if [ -f "$out/checkpoint.pt" ]; then
        python -m fasteraa_transforms.search --resume "$out"
    else
        python -m fasteraa_transforms.search cifar10 --data-dir "$DATA" --out "$out" "$@"
    fi
}

# evaluate NAME ARGUMENT…: an evaluation into $RUNS/NAME, which continues by itself.
evaluate() {
    local out=$RUNS/$1
    shift
    python -m fasteraa_transforms.search.evaluate cifar10 --data-dir "$DATA" --out "$out" "$@"
}

controls=none,cutout,random,trivialaugment,randaugment,autoaugment
