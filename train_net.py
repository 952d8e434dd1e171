#!/usr/bin/env python3
"""Train, resume and evaluate with detectron2's command line. The same as `mrcnn train`.

train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8 --resume
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --eval-only MODEL.WEIGHTS model.pth
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --train my=my.json:images \\
    --val-fraction 0.1
"""

import sys

from mrcnn_command import run

if __name__ == "__main__":
    run("train", sys.argv[1:], program="train_net.py")
