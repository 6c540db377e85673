# What the recipes share. RUNS is where runs and evaluations go, DATA where torchvision's data sets are.
# SCALE=digits does the same with scikit-learn's digits: searches of 600 steps on 150 of them (300 for all), and a small network
# trained on 300, for which one core of a CPU is enough. The paper's numbers do not apply to it and are left out.
set -euo pipefail
RUNS=${RUNS:-runs} DATA=${DATA:-data} SCALE=${SCALE:-paper}
case $SCALE in
    paper)
        subset=4000 full=50000
        dataset=(cifar10 --data-dir "$DATA")
        searching=()
        training=()
        network=
        ;;
    digits)
        subset=150 full=300
        dataset=(digits)
        searching=(--num-images 150 --batch-size 50 --epochs 200)
        training=(--train-images 300 --batch-size 50 --epochs 120 --no-cutout-after)
        network=small
        ;;
    *)
        echo "SCALE should be paper or digits, but got $SCALE instead" >&2
        exit 2
        ;;
esac

# search NAME ARGUMENT…: a search into $RUNS/NAME, unless it is there; one that was cut off continues.
search() {
    local out=$RUNS/$1
    shift
    if [ -f "$out/diagnosis.json" ]; then return; fi
    if [ -f "$out/checkpoint.pt" ]; then
        python -m fasteraa_transforms.search --resume "$out"
    else
        python -m fasteraa_transforms.search "${dataset[@]}" --out "$out" "${searching[@]}" "$@"
    fi
}

# evaluate NAME NETWORK ARGUMENT… [--paper LABEL ERROR …]: an evaluation into $RUNS/NAME, which continues by itself.
evaluate() {
    local out=$RUNS/$1 arguments=(--model "${network:-$2}")
    shift 2
    while [ $# -gt 0 ] && { [ "$1" != --paper ] || [ "$SCALE" = paper ]; }; do
        arguments+=("$1")
        shift
    done
    python -m fasteraa_transforms.search.evaluate "${dataset[@]}" --out "$out" "${training[@]}" "${arguments[@]}"
}

controls=none,cutout,random,trivialaugment,randaugment,autoaugment,uniform
