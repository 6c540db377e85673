#!/usr/bin/env bash
# Figure 7, the operation count K from 1 to 4, CIFAR-10, WideResNet-40-2, three runs. Not run at this scale.
# Paper: the error falls as K grows; a curve without numbers but for K = 2, which is Table 4's 3.7 %.
. "$(dirname "${BASH_SOURCE[0]}")/functions.bash"
policies=$controls
for count in 2 1 3 4; do  # random is of the shape of the first
    search "paper-K$count" --preset paper --stages "$count"
    policies=$policies,K$count=$RUNS/paper-K$count/policy.json
done
evaluate figure-7-operation-count wrn40_2 --seeds 3 --policies "$policies" --paper none 5.3 cutout 4.1 K2 3.7
