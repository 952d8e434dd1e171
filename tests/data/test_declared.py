"""Data sets that a config declares: written, split, registered, followed, evaluated."""

import json

import pytest
import yaml
from builders import evaluate, load_cfg, perfect_predictions
from coco_files import coco_content, save_picture, write_dataset
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.data import declared as declared_module
from mrcnn_plugin.data import make_shapes, register_datasets
from mrcnn_plugin.data.coco_file import DataError, read_coco_json, split_images, to_detectron2
from mrcnn_plugin.data.declared import find_declared, forget_declared
from mrcnn_plugin.data.follow import declare_datasets, follow_data
from mrcnn_plugin.data.run_check import check_datasets
from mrcnn_plugin.data.spec import DatasetSpec


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    for name in list(declared_module._DECLARED):
        forget_declared(name)


def new_cfg(*opts):
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.mark.parametrize(
    "text, name, json_file, image_root",
    [
        ("my=a/b.json:c/d", "my", "a/b.json", "c/d"),
        ("my=a/b.json", "my", "a/b.json", "a"),
        ("b.json", "b", "b.json", "."),
        ("a/my set.json:pictures", None, None, None),  # a name with a space
        ("my=C:/a/b.json:D:/c", "my", "C:/a/b.json", "D:/c"),
        ("my=s3://x/b.json:s3://x/c", "my", "s3://x/b.json", "s3://x/c"),
        ("my=annotations:c", "my", "annotations", "c"),
        ("my=", None, None, None),
        ("=a.json:c", None, None, None),
    ],
)
def test_specs(text, name, json_file, image_root):
    if name is None:
        with pytest.raises(ValueError, match=r"expected name=path/to/annotations\.json:"):
            DatasetSpec.parse(text)
    else:
        spec = DatasetSpec.parse(text)
        assert spec == (name, json_file, image_root)
        assert DatasetSpec.parse(str(spec)) == spec


def test_split_depends_on_file_names_and_seed_alone():
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(40)]
    renumbered = [{"id": 100 - i["id"], "file_name": i["file_name"]} for i in reversed(images)]
    names = lambda records: {record["file_name"] for record in records}  # noqa: E731
    kept, held_out = split_images(images, 0.1, seed=0)
    assert len(held_out) == 4 and len(kept) == 36
    assert names(kept) | names(held_out) == names(images)
    assert names(split_images(renumbered, 0.1, seed=0)[1]) == names(held_out)
    assert names(split_images(images, 0.1, seed=1)[1]) != names(held_out)
    assert names(held_out) < names(split_images(images, 0.2, seed=0)[1])


@pytest.mark.parametrize("fraction, held_out", [(0.01, 1), (0.5, 2), (0.99, 2)])
def test_neither_part_of_a_split_is_empty(fraction, held_out):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)]
    kept, out = split_images(images, fraction, seed=0)
    assert (len(kept), len(out)) == (3 - held_out, held_out)


def test_splits_that_cannot_be():
    for images, fraction in (([{"id": 1, "file_name": "a"}], 0.5), ([{}, {}], 1.0), ([{}, {}], -1)):
        with pytest.raises(DataError, match="expected a number between 0 and 1, and two images"):
            split_images(images, fraction, seed=0)


@pytest.mark.parametrize(
    "part", ["coco_tiny/annotations/instances_val2017", "fruits_nuts/trainval"]
)
def test_dicts_are_those_of_detectron2(photographs, part):
    json_file = str(photographs / f"{part}.json")
    expected = load_coco_json(json_file, "images", "theirs")
    found = to_detectron2(read_coco_json(json_file), "images", "ours")
    try:
        assert found == expected
        ours, theirs = MetadataCatalog.get("ours"), MetadataCatalog.get("theirs")
        assert ours.thing_classes == theirs.thing_classes
        theirs_ids = theirs.thing_dataset_id_to_contiguous_id
        assert ours.thing_dataset_id_to_contiguous_id == theirs_ids
    finally:
        MetadataCatalog.pop("ours"), MetadataCatalog.pop("theirs")


def test_keypoints_plain_rle_and_unsorted_ids_are_those_of_detectron2(tmp_path):
    content = coco_content(1)
    content["categories"].reverse()
    first, second = content["annotations"]
    first["keypoints"] = [3, 4, 2, 5, 6, 1]
    second["segmentation"] = {"size": [10, 20], "counts": [40, 20, 140]}
    path = write_dataset(tmp_path, content)
    try:
        expected = load_coco_json(str(path), str(tmp_path), "theirs")
        assert to_detectron2(content, str(tmp_path), "ours") == expected
        assert first["keypoints"] == [3, 4, 2, 5, 6, 1]  # given content is left as it is
    finally:
        MetadataCatalog.pop("ours"), MetadataCatalog.pop("theirs")


def test_the_command_line_becomes_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = new_cfg()
    declare_datasets(cfg, train=["a=a.json:img"], val=["b=b.json:img", "coco_2017_val"])
    here = str(tmp_path)
    assert (
        f"a={here}/a.json:{here}/img",
        f"b={here}/b.json:{here}/img",
    ) == cfg.DATASETS.FILES
    assert cfg.DATASETS.TRAIN == ("a",)
    assert cfg.DATASETS.TEST == ("b", "coco_2017_val")


def test_training_data_without_validation_data_leave_none(tmp_path):
    cfg = new_cfg("DATASETS.TEST", ("coco_2017_val",))
    declare_datasets(cfg, train=["a=a.json:img"])
    assert cfg.DATASETS.TEST == ()
    cfg = new_cfg("DATASETS.TEST", ("coco_2017_val",))
    declare_datasets(cfg, train=["a=a.json:img"], given={"DATASETS.TEST"})
    assert cfg.DATASETS.TEST == ("coco_2017_val",)


def test_contradictions_are_refused(tmp_path):
    with pytest.raises(DataError, match="--val and --val-fraction are both given"):
        declare_datasets(new_cfg(), train=["a=a.json"], val=["b=b.json"], val_fraction=0.1)
    with pytest.raises(DataError, match=r"--val-fraction splits data of --train name=json:images"):
        declare_datasets(new_cfg("DATASETS.TRAIN", ("coco_2017_train",)), val_fraction=0.1)
    with pytest.raises(DataError, match=r"'a b=x\.json' is not a data set"):
        declare_datasets(new_cfg("DATASETS.FILES", ("a b=x.json",)))
    cfg = new_cfg("DATASETS.FILES", ("a=x.json", "a=y.json"))
    with pytest.raises(DataError, match="two data sets are called 'a'"):
        follow_data(cfg)
    path = write_dataset(tmp_path, coco_content())
    cfg = new_cfg("DATASETS.FILES", (f"coco_2017_val={path}",))
    with pytest.raises(DataError, match="'coco_2017_val' exists already"):
        follow_data(cfg)


def shapes_and_polygons(tmp_path):
    """Two declarations: three classes with RLE masks, two with polygons."""
    make_shapes(tmp_path / "rle/data.json", 4, seed=1, size=64)
    write_dataset(tmp_path / "polygons", coco_content())
    return [f"{name}={tmp_path / name / 'data.json'}" for name in ("rle", "polygons")]


def test_classes_and_mask_format_follow_the_data(tmp_path, caplog):
    rle, polygons = shapes_and_polygons(tmp_path)
    for train, classes, mask_format in (
        ([rle], ("circle", "square", "triangle"), "bitmask"),
        ([polygons], ("disc", "ring"), "polygon"),
        ([polygons, rle], ("disc", "ring", "circle", "square", "triangle"), "bitmask"),
    ):
        cfg = new_cfg()
        declare_datasets(cfg, train=train)
        with caplog.at_level("INFO", logger="mrcnn_plugin"):
            follow_data(cfg)
        assert classes == cfg.DATASETS.CLASS_NAMES
        assert len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
        assert mask_format == cfg.INPUT.MASK_FORMAT
        for name in cfg.DATASETS.TRAIN:
            DatasetCatalog.get(name)
            assert tuple(MetadataCatalog.get(name).thing_classes) == classes
            assert MetadataCatalog.get(name).evaluator_type == "coco"
    assert "NUM_CLASSES is 5, which follows from polygons, rle: classes disc, ring" in caplog.text


def test_crowd_regions_alone_do_not_make_it_bitmask(photographs):
    """COCO's crowds are RLE, its objects polygons; detectron2 does not train on crowds."""
    folder = photographs / "coco_tiny"
    train = f"a={folder}/annotations/instances_train2017.json:{folder}/train2017"
    cfg = new_cfg()
    declare_datasets(cfg, train=[train])
    follow_data(cfg)
    assert (cfg.INPUT.MASK_FORMAT, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == ("polygon", 80)


def test_what_was_given_stays(tmp_path, caplog):
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("MODEL.ROI_HEADS.NUM_CLASSES", 7, "INPUT.MASK_FORMAT", "polygon")
    declare_datasets(cfg, train=[rle])
    with caplog.at_level("INFO", logger="mrcnn_plugin"):
        follow_data(cfg, given={"MODEL.ROI_HEADS.NUM_CLASSES", "INPUT.MASK_FORMAT"})
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.INPUT.MASK_FORMAT) == (7, "polygon")
    assert "NUM_CLASSES is as given; from rle would follow 3 (classes circle, square" in caplog.text


def test_a_config_without_declarations_is_left_alone():
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    before = cfg.dump()
    declare_datasets(cfg)
    follow_data(cfg)
    assert cfg.dump() == before


def test_a_saved_config_needs_no_flags(tmp_path):
    """Given keys included: NUM_CLASSES 7 was on the command line."""
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("MODEL.ROI_HEADS.NUM_CLASSES", 7)
    declare_datasets(cfg, train=[rle], val_fraction=0.25)
    follow_data(cfg, given={"MODEL.ROI_HEADS.NUM_CLASSES"})
    names = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert names == (("rle_split_train",), ("rle_split_val",))
    before = [DatasetCatalog.get(n[0]) for n in names]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    for name in list(declared_module._DECLARED):
        forget_declared(name)

    saved = new_cfg()
    saved.merge_from_file(str(tmp_path / "config.yaml"))
    declare_datasets(saved)
    follow_data(saved)
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    assert [DatasetCatalog.get(n[0]) for n in names] == before
    assert [len(dicts) for dicts in before] == [3, 1]


def test_other_pictures_with_a_saved_config(tmp_path):
    """`--val` alone: classes stay those of the model, and the training part keeps its meaning."""
    rle, polygons = shapes_and_polygons(tmp_path)
    cfg = new_cfg()
    declare_datasets(cfg, train=[rle], val_fraction=0.25)
    follow_data(cfg)
    declare_datasets(cfg, val=[polygons])
    follow_data(cfg, given={"DATASETS.TEST"})
    assert cfg.DATASETS.TEST == ("polygons",)
    assert cfg.DATASETS.CLASS_NAMES == ("circle", "square", "triangle")
    assert len(DatasetCatalog.get("rle_split_train")) == 3
    problems = check_datasets(cfg, training=False)["polygons"]
    assert [p.kind for p in problems] == ["category-order"] + ["unknown-class"] * 6


def test_other_training_data_with_a_saved_config(tmp_path):
    """`--train`: classes follow anew."""
    rle, polygons = shapes_and_polygons(tmp_path)
    cfg = new_cfg()
    for train, classes in ((rle, ("circle", "square", "triangle")), (polygons, ("disc", "ring"))):
        declare_datasets(cfg, train=[train])
        follow_data(cfg)
        assert classes == cfg.DATASETS.CLASS_NAMES
        assert len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


def test_a_yaml_that_names_the_whole_set_is_split(tmp_path):
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("DATASETS.FILES", (rle,), "DATASETS.VAL_FRACTION", 0.5)
    cfg.DATASETS.TRAIN = ("rle",)
    follow_data(cfg)
    assert cfg.DATASETS.TRAIN == ("rle_split_train",)
    assert cfg.DATASETS.TEST == ("rle_split_val",)


def test_register_datasets_knows_what_a_saved_config_declares(tmp_path):
    """For scripts that load a saved config and nothing else."""
    _, polygons = shapes_and_polygons(tmp_path)
    cfg = new_cfg("DATASETS.FILES", (polygons,))
    register_datasets(cfg)
    register_datasets(cfg)
    assert len(DatasetCatalog.get("polygons")) == 3


def faulty_pair(tmp_path):
    """Training and validation json whose class ids differ; val numbers annotations from 0."""
    write_dataset(tmp_path / "t", coco_content(3))
    val = coco_content(2, classes=("ring", "disc"))
    for number, annotation in enumerate(val["annotations"]):
        annotation["id"] = number
    write_dataset(tmp_path / "v", val)
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"t={tmp_path}/t/data.json"], val=[f"v={tmp_path}/v/data.json"])
    follow_data(cfg)
    return cfg


def perfect_results(name, tmp_path):
    return evaluate(name, perfect_predictions(name), tmp_path / "out")


def test_what_was_mended_is_what_is_evaluated(tmp_path):
    cfg = faulty_pair(tmp_path)
    problems = check_datasets(cfg, training=True)
    assert {p.kind for p in problems["v"]} == {"category-order", "annotation-id-0"}
    results = perfect_results("v", tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(100)
    # Category 1 of the validation json is "ring", class 1 of the run.
    (first, *_) = DatasetCatalog.get("v")
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]


def test_the_held_out_part_alone_is_evaluated(tmp_path):
    write_dataset(tmp_path, coco_content(10))
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={tmp_path}/data.json"], val_fraction=0.3)
    follow_data(cfg)
    assert perfect_results("a_split_val", tmp_path)["bbox"]["AP"] == pytest.approx(100)
    truth = find_declared("a_split_val").ground_truth()
    assert len(truth.imgs) == 3 and len(truth.anns) == 6


def test_evaluating_twice_gives_the_same(tmp_path):
    """COCOeval writes into the ground truth that it is given."""
    faulty_pair(tmp_path)
    before = json.dumps(find_declared("v").content())
    results = [perfect_results("v", tmp_path) for _ in range(2)]
    assert json.dumps(find_declared("v").content()) == before
    assert results[0]["bbox"]["AP"] == results[1]["bbox"]["AP"] == pytest.approx(100)


def test_the_same_pictures_in_both_are_left_out_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(declared_module, "_KEPT_IN_MEMORY", 0)  # read again each time
    write_dataset(tmp_path / "t", coco_content(3))
    write_dataset(tmp_path / "v", coco_content(2))
    (tmp_path / "v/1.png").write_bytes((tmp_path / "t/2.png").read_bytes())
    for drop_bad, severity, left in ((False, "error", [1, 2, 3]), (True, "dropped", [1, 3])):
        cfg = new_cfg("DATASETS.DROP_BAD", drop_bad)
        pair = {s: [f"{n}={tmp_path / n}/data.json"] for s, n in (("train", "t"), ("val", "v"))}
        declare_datasets(cfg, **pair)
        follow_data(cfg)
        (problem,) = check_datasets(cfg, training=True)["t"]
        assert (problem.severity.value, problem.kind, problem.image_id) == (
            *(severity, "train-val-overlap"),
            2,
        )
        if drop_bad:
            for _ in range(2):
                assert [r["image_id"] for r in DatasetCatalog.get("t")] == left
        else:
            with pytest.raises(DataError, match="train-val-overlap"):
                DatasetCatalog.get("t")
        assert check_datasets(cfg, training=False)["v"] == []


def test_training_and_validation_on_one_set_is_only_said(tmp_path):
    write_dataset(tmp_path, coco_content(3))
    cfg = new_cfg()
    declaration = [f"a={tmp_path}/data.json"]
    declare_datasets(cfg, train=declaration, val=declaration)
    follow_data(cfg)
    problems = check_datasets(cfg, training=True)["a"]
    assert [(p.severity.value, p.kind) for p in problems] == [("warning", "train-is-val")]


def test_unmended_errors_stop_the_loader_too(tmp_path):
    """Whoever asks the catalog without the check of train_net.py."""
    content = coco_content(2)
    content["annotations"][0]["bbox"] = [90, 90, 5, 5]
    write_dataset(tmp_path, content)
    cfg = new_cfg("DATASETS.FILES", (f"a={tmp_path}/data.json",))
    register_datasets(cfg)
    with pytest.raises(DataError, match=r"data set 'a':\n.*box-outside \(1\)\n.* annotation 1: "):
        DatasetCatalog.get("a")


def test_without_the_check_data_are_used_as_they_are(tmp_path):
    content = coco_content(2)
    content["annotations"][0]["bbox"] = [90, 90, 5, 5]
    write_dataset(tmp_path, content, pictures=False)
    declaration = (f"a={tmp_path}/data.json",)
    cfg = new_cfg("DATASETS.FILES", declaration, "DATASETS.CHECK", False)
    register_datasets(cfg)
    (first, _) = DatasetCatalog.get("a")
    assert first["annotations"][0]["bbox"] == [90, 90, 5, 5]


def test_large_data_are_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(declared_module, "_KEPT_IN_MEMORY", 3)
    write_dataset(tmp_path, coco_content(2))
    register_datasets(new_cfg("DATASETS.FILES", (f"a={tmp_path}/data.json",)))
    before = DatasetCatalog.get("a")
    save_picture(tmp_path / "1.png", seed=5)
    assert find_declared("a")._content is None
    assert DatasetCatalog.get("a") == before


def test_builtin_names_are_checked_too(tmp_path, photographs, monkeypatch):
    """detectron2's registration of an unmodified COCO layout."""
    name = "coco_2017_val"
    metadata = MetadataCatalog.get(name)
    real = str(photographs / "coco_tiny/annotations/instances_val2017.json")
    content = json.loads((photographs / "coco_tiny/annotations/instances_val2017.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    (tmp_path / "val.json").write_text(json.dumps(content))
    root = str(photographs / "coco_tiny/val2017")
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    for json_file, expected in ((real, set()), (str(tmp_path / "val.json"), {"empty-box"})):
        monkeypatch.setitem(metadata.__dict__, "json_file", json_file)
        monkeypatch.setitem(metadata.__dict__, "image_root", root)
        (problems,) = check_datasets(cfg, training=False).values()
        assert {p.kind for p in problems} == {"unused-category"} | expected
        assert {p.severity.value for p in problems} == {"warning"}


def test_num_classes_below_the_categories_is_an_error(tmp_path):
    cfg = faulty_pair(tmp_path)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    problems = check_datasets(cfg, training=True)
    for name in ("t", "v"):
        assert ("error", "num-classes") in [(p.severity.value, p.kind) for p in problems[name]]
