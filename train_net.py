#!/usr/bin/env python3
"""Train, resume and evaluate: detectron2's command line with this plugin's components.

train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --num-gpus 8 --resume
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --eval-only MODEL.WEIGHTS model.pth
train_net.py --config-file configs/mask_rcnn_R101_C4.yaml --train my=my.json:images \\
    --val-fraction 0.1
"""

import sys

from mrcnn_plugin.cli.main import one_sentence
from mrcnn_plugin.cli.train import main

if __name__ == "__main__":
    sys.exit(one_sentence("train_net.py", main, sys.argv[1:]))
