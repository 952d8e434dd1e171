"""configs/lazy equal the yaml files and train with the steps of detectron2's lazyconfig_train_net.

That script is not in the PyPI copy of detectron2, so `train` repeats its steps.
"""

import math

import pytest
import torch
from builders import ROOT, load_cfg
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.solver import build_lr_scheduler, build_optimizer

NAMES = ["mask_rcnn_R101_C4", "mask_rcnn_R50_C4"]


def load(name):
    return LazyConfig.load(str(ROOT / f"configs/lazy/{name}.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_is_that_of_the_yaml(name):
    """The models are compared in tests/projects/test_mixing.py."""
    lazy, cfg = load(name), load_cfg(f"{name}.yaml")
    weights = (ROOT / f"configs/{name}.yaml").read_text()
    assert f'WEIGHTS: "{lazy.train.init_checkpoint}"' in weights
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert (lazy.dataloader.train.dataset.names,) == cfg.DATASETS.TRAIN
    assert (lazy.dataloader.test.dataset.names,) == cfg.DATASETS.TEST
    for mapper, sizes, longest in (
        (lazy.dataloader.train.mapper, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN),
        (lazy.dataloader.test.mapper, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
    ):
        resize = mapper.augmentations[0]
        short = resize.short_edge_length
        assert (tuple(short) if isinstance(sizes, tuple) else short) == sizes
        assert resize.max_size == longest and mapper.image_format == cfg.INPUT.FORMAT

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    lazy.optimizer.params.model = net
    ours, theirs = instantiate(lazy.optimizer), build_optimizer(cfg, net)

    def settings(optimizer):
        """Of each parameter: the optimizers may group them differently."""
        keys = ("lr", "momentum", "weight_decay", "nesterov")
        return {id(p): [g[k] for k in keys] for g in optimizer.param_groups for p in g["params"]}

    assert settings(ours) == settings(theirs)
    multiplier, schedule = instantiate(lazy.lr_multiplier), build_lr_scheduler(cfg, theirs)
    for iteration in (0, 1, 500, 999, 1000, 119999, 120000, 159999):
        schedule.last_epoch = iteration
        rate = cfg.SOLVER.BASE_LR * multiplier(iteration / lazy.train.max_iter)
        assert rate == pytest.approx(schedule.get_lr()[0], rel=1e-9), iteration


def train(cfg):
    """Train and evaluate; returns the trainer and the results of the last evaluation."""
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    results = {}

    def evaluate():
        loader = instantiate(cfg.dataloader.test)
        results.update(inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator)))
        return results

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, evaluate),
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter),
                period=cfg.train.log_period,
            ),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    trainer.train(0, cfg.train.max_iter)
    return trainer, results


@pytest.mark.parametrize("name", NAMES)
def test_two_iterations_and_an_evaluation(name, shapes_cfg, tmp_path):
    cfg = load(name)
    if name == "mask_rcnn_R101_C4":  # the same parts in half the time
        cfg.model.backbone.depth = cfg.model.roi_heads.res5.depth = 50
    cfg = LazyConfig.apply_overrides(
        cfg,
        [
            *("train.init_checkpoint=''", "train.device=cpu", f"train.output_dir={tmp_path}"),
            *("train.max_iter=2", "train.log_period=1"),
            "dataloader.train.dataset.names=drawn_train",
            "dataloader.test.dataset.names=drawn_val",
            "+dataloader.train.mapper.instance_mask_format=bitmask",
            *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
            "dataloader.train.total_batch_size=2",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[96]",
            "dataloader.test.mapper.augmentations.0.short_edge_length=96",
            "model.roi_heads.num_classes=3",
            "model.roi_heads.box_predictor.num_classes=3",
            "model.roi_heads.mask_head.num_classes=3",
            "model.roi_heads.box_predictor.test_score_thresh=0.0",
            "model.roi_heads.batch_size_per_image=8",
            "model.proposal_generator.post_nms_topk=[50, 5]",
            # Random FrozenBN does not normalise.
            "model.pixel_std=[57400.0, 57100.0, 58400.0]",
        ],
    )
    trainer, results = train(cfg)
    assert trainer.iter == 2
    assert {"bbox", "segm"} <= set(results)
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])
    assert (tmp_path / "model_final.pth").is_file()
