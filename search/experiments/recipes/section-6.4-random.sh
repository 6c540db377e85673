#!/usr/bin/env bash
# Section 6.4, searched against random policies, CIFAR-10, WideResNet-28-10, 200 epochs, three runs. Not run at this scale.
# Paper, error in %: searched 2.6, random 2.7; Table 4 has baseline 3.9, Cutout 3.1 and AutoAugment 2.6 for this network.
. "$(dirname "${BASH_SOURCE[0]}")/functions.bash"
search paper-subset --preset paper --num-images $subset
evaluate section-6.4-random wrn28_10 --seeds 3 \
    --policies "$controls,paper=$RUNS/paper-subset/policy.json" \
    --paper none 3.9 cutout 3.1 autoaugment 2.6 random 2.7 paper 2.6
