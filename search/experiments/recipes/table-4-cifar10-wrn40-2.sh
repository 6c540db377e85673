#!/usr/bin/env bash
# Table 4, CIFAR-10, WideResNet-40-2, 200 epochs, three runs. Not run at this scale.
# Paper, error in %: baseline 5.3, Cutout 4.1, AutoAugment 3.7, Fast AutoAugment 3.6, Faster AutoAugment 3.7.
. "$(dirname "${BASH_SOURCE[0]}")/functions.bash"
search paper-subset --preset paper --num-images $subset
search default-subset --num-images $subset
evaluate table-4-cifar10-wrn40-2 wrn40_2 --seeds 3 \
    --policies "$controls,paper=$RUNS/paper-subset/policy.json,default=$RUNS/default-subset/policy.json" \
    --paper none 5.3 cutout 4.1 autoaugment 3.7 paper 3.7
