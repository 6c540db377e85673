#!/usr/bin/env bash
# Table 7 and section 6.3, searched on 4,000 or on all 50,000 images, CIFAR-10, WideResNet-40-2, three runs. Not run at this scale.
# Paper, error in %: 4,000 images and L = 10: 3.7; 50,000 and L = 10: 4.1; 50,000 and 10 of L = 80 sub-policies: 3.8.
. "$(dirname "${BASH_SOURCE[0]}")/functions.bash"
search paper-subset --preset paper --num-images $subset
search paper-full --preset paper --num-images $full
search paper-full-L80 --preset paper --num-images $full --sub-policies 80
# The first ten are as good a sample as any: sub-policies start alike, at random.
python -c 'import sys; from fasteraa_transforms import Policy; p = Policy.load(sys.argv[1]); Policy(p.sub_policies[:10], name="10-of-80", provenance=p.provenance).save(sys.argv[2])' \
    "$RUNS/paper-full-L80/policy.json" "$RUNS/paper-full-10-of-80.json"
policies=subset=$RUNS/paper-subset/policy.json,full=$RUNS/paper-full/policy.json
evaluate table-7-subset-or-full wrn40_2 --seeds 3 \
    --policies "$controls,$policies,full-10-of-80=$RUNS/paper-full-10-of-80.json" \
    --paper none 5.3 cutout 4.1 autoaugment 3.7 subset 3.7 full 4.1 full-10-of-80 3.8
