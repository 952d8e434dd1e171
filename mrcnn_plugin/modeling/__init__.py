"""The model of the paper, one file per box of its figure, composed of detectron2's parts."""
