#!/usr/bin/env bash
# Table 5, reduced CIFAR-10: searched and trained on the same 4,000 images, WideResNet-28-10, 200 epochs. Not run at this scale.
# Paper, error in %: baseline 24.3, Cutout 22.5, AutoAugment 14.1, Faster AutoAugment 14.8.
. "$(dirname "${BASH_SOURCE[0]}")/functions.bash"
search paper-subset --preset paper --num-images $subset
search default-subset --num-images $subset
evaluate table-5-reduced-cifar10 wrn28_10 --train-images $subset --split-seed 0 --seeds 3 \
    --policies "$controls,paper=$RUNS/paper-subset/policy.json,default=$RUNS/default-subset/policy.json" \
    --paper none 24.3 cutout 22.5 autoaugment 14.1 paper 14.8
