"""Datasets on files: declared, split, checked, written, registered, evaluated."""

import json
import os
from pathlib import Path

import pytest
import yaml
from builders import evaluate, load_cfg, perfect_predictions
from coco_files import coco_content, write_dataset
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.engine import default_argument_parser

from mrcnn_plugin import add_mrcnn_config
from mrcnn_plugin.data import make_shapes, read_statistics, register_datasets
from mrcnn_plugin.data.coco_file import DataError, make_evaluable, split_images
from mrcnn_plugin.data.declare import declare_datasets, infer_from_files
from mrcnn_plugin.data.prepare import prepare_datasets, prepared_file
from mrcnn_plugin.data.spec import DatasetSpec
from mrcnn_plugin.engine import check_data
from mrcnn_plugin.engine.launch import launch
from mrcnn_plugin.errors import RunError


@pytest.fixture(autouse=True)
def clean_catalogs(tmp_path, monkeypatch):
    """Relative `OUTPUT_DIR`s are in `tmp_path`, and what a test registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    before = set(DatasetCatalog)
    yield
    forget(set(DatasetCatalog) - before)


def forget(names):
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def new_cfg(*opts):
    cfg = get_cfg()
    add_mrcnn_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def infer_and_register(cfg, **options):
    """What a training does before its first iteration, without the check."""
    infer_from_files(cfg, **options)
    register_datasets(cfg)


def prepare(cfg, *, training=True):
    """Prepare the datasets of a config; returns the problems by dataset."""
    train = cfg.DATASETS.TRAIN if training else ()
    prepared = prepare_datasets(cfg, train=train, test=cfg.DATASETS.TEST)
    return {dataset.name: dataset.findings.problems for dataset in prepared}


def written(cfg, name):
    return json.loads(prepared_file(cfg, name).read_text())


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
        with pytest.raises(DataError, match=r"expected name=path/to/annotations\.json:"):
            DatasetSpec.parse(text)
    else:
        spec = DatasetSpec.parse(text)
        assert spec == (name, json_file, image_root)
        assert DatasetSpec.parse(str(spec)) == spec


def test_split_depends_only_on_file_names_and_seed():
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


def test_contradictions_are_rejected(tmp_path):
    with pytest.raises(DataError, match="--val and --val-fraction were both passed"):
        declare_datasets(new_cfg(), train=["a=a.json"], val=["b=b.json"], val_fraction=0.1)
    with pytest.raises(
        DataError, match=r"--val-fraction only splits data of --train name=json:images"
    ):
        declare_datasets(new_cfg("DATASETS.TRAIN", ("coco_2017_train",)), val_fraction=0.1)
    with pytest.raises(DataError, match=r"'a b=x\.json' is not a dataset"):
        declare_datasets(new_cfg("DATASETS.FILES", ("a b=x.json",)))
    cfg = new_cfg("DATASETS.FILES", ("a=x.json", "a=y.json"))
    with pytest.raises(DataError, match="two datasets called 'a'"):
        infer_from_files(cfg)
    path = write_dataset(tmp_path, coco_content())
    cfg = new_cfg("DATASETS.FILES", (f"coco_2017_val={path}",))
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(DataError, match="'coco_2017_val' exists already"):
        infer_and_register(cfg)


def shapes_and_polygons(tmp_path):
    """Two declarations: three classes with RLE masks, two with polygons."""
    make_shapes(tmp_path / "rle/data.json", 4, seed=1, size=64)
    write_dataset(tmp_path / "polygons", coco_content())
    return [f"{name}={tmp_path / name / 'data.json'}" for name in ("rle", "polygons")]


def test_classes_and_mask_format_are_inferred(tmp_path, caplog):
    rle, polygons = shapes_and_polygons(tmp_path)
    for train, classes, mask_format in (
        ([rle], ("circle", "square", "triangle"), "bitmask"),
        ([polygons], ("disc", "ring"), "polygon"),
        ([polygons, rle], ("disc", "ring", "circle", "square", "triangle"), "bitmask"),
    ):
        cfg = new_cfg()
        declare_datasets(cfg, train=train)
        with caplog.at_level("INFO", logger="mrcnn_plugin"):
            infer_and_register(cfg)
        prepare(cfg)
        assert classes == cfg.DATASETS.CLASS_NAMES
        assert len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
        assert mask_format == cfg.INPUT.MASK_FORMAT
        for name in cfg.DATASETS.TRAIN:
            DatasetCatalog.get(name)
            assert tuple(MetadataCatalog.get(name).thing_classes) == classes
            assert MetadataCatalog.get(name).evaluator_type == "coco"
    assert "NUM_CLASSES is 5, inferred from polygons, rle: classes disc, ring" in caplog.text


def test_crowd_regions_do_not_make_it_bitmask(real_images):
    """COCO's crowds are RLE, its objects polygons; detectron2 does not train on crowds."""
    folder = real_images / "coco_tiny"
    train = f"a={folder}/annotations/instances_train2017.json:{folder}/train2017"
    cfg = new_cfg()
    declare_datasets(cfg, train=[train])
    infer_from_files(cfg)
    assert (cfg.INPUT.MASK_FORMAT, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == ("polygon", 80)


def test_crowds_as_objects_are_trained_on(real_images):
    """The five RLE crowd regions of COCO become objects, so masks are bitmasks."""
    folder = real_images / "coco_tiny"
    train = f"a={folder}/annotations/instances_train2017.json:{folder}/train2017"
    cfg = new_cfg("DATASETS.CROWDS_AS_OBJECTS", True)
    declare_datasets(cfg, train=[train])
    infer_from_files(cfg)
    problems = prepare(cfg)["a"]
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    (crowds,) = [p for p in problems if p.kind == "crowds"]
    assert crowds.fault == "5 annotations are crowd regions"
    annotations = written(cfg, "a")["annotations"]
    assert len(annotations) == 470 and not any(a["iscrowd"] for a in annotations)


def test_what_was_given_stays(tmp_path, caplog):
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("MODEL.ROI_HEADS.NUM_CLASSES", 7, "INPUT.MASK_FORMAT", "polygon")
    declare_datasets(cfg, train=[rle])
    with caplog.at_level("INFO", logger="mrcnn_plugin"):
        infer_from_files(cfg, given={"MODEL.ROI_HEADS.NUM_CLASSES", "INPUT.MASK_FORMAT"})
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.INPUT.MASK_FORMAT) == (7, "polygon")
    assert "NUM_CLASSES stays as set; 3 would be inferred from rle (classes circle" in caplog.text


def test_a_config_without_datasets_on_files_is_not_changed():
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    before = cfg.dump()
    declare_datasets(cfg)
    infer_from_files(cfg)
    assert cfg.dump() == before


def test_a_saved_config_needs_no_flags(tmp_path):
    """This includes keys from the command line, here the MASK_FORMAT that would not be inferred."""
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("INPUT.MASK_FORMAT", "polygon")
    declare_datasets(cfg, train=[rle], val_fraction=0.25)
    infer_and_register(cfg, given={"INPUT.MASK_FORMAT"})
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    prepare(cfg)
    names = (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    assert names == (("rle_split_train",), ("rle_split_val",))
    before = [DatasetCatalog.get(n[0]) for n in names]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    forget(n[0] for n in names)

    saved = new_cfg()
    saved.merge_from_file(str(tmp_path / "config.yaml"))
    declare_datasets(saved)
    infer_and_register(saved)
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    assert [DatasetCatalog.get(n[0]) for n in names] == before
    assert [len(dicts) for dicts in before] == [3, 1]


def test_other_images_with_a_saved_config(tmp_path):
    """Only `--val`: classes stay those of the model, and training data are not needed."""
    rle, polygons = shapes_and_polygons(tmp_path)
    cfg = new_cfg()
    declare_datasets(cfg, train=[rle], val_fraction=0.25)
    infer_from_files(cfg)
    declare_datasets(cfg, val=[polygons])
    infer_and_register(cfg, given={"DATASETS.TEST"})
    assert cfg.DATASETS.TEST == ("polygons",)
    assert cfg.DATASETS.CLASS_NAMES == ("circle", "square", "triangle")
    problems = prepare(cfg, training=False)["polygons"]
    assert not prepared_file(cfg, "rle_split_train").exists()
    assert [p.kind for p in problems] == ["category-order"] + ["unknown-class"] * 6


def test_other_training_data_with_a_saved_config(tmp_path):
    """`--train`: classes are inferred again."""
    rle, polygons = shapes_and_polygons(tmp_path)
    cfg = new_cfg()
    for train, classes in ((rle, ("circle", "square", "triangle")), (polygons, ("disc", "ring"))):
        declare_datasets(cfg, train=[train])
        infer_from_files(cfg)
        assert classes == cfg.DATASETS.CLASS_NAMES
        assert len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


def test_a_yaml_that_names_the_whole_set_is_split(tmp_path):
    rle, _ = shapes_and_polygons(tmp_path)
    cfg = new_cfg("DATASETS.FILES", (rle,), "DATASETS.VAL_FRACTION", 0.5)
    cfg.DATASETS.TRAIN = ("rle",)
    infer_from_files(cfg)
    assert cfg.DATASETS.TRAIN == ("rle_split_train",)
    assert cfg.DATASETS.TEST == ("rle_split_val",)


def test_registering_what_is_written_needs_no_source(tmp_path):
    """A report of a run that was moved: neither the json nor the images are there any more."""
    write_dataset(tmp_path / "data", coco_content(3))
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={tmp_path}/data/data.json"])
    infer_and_register(cfg)
    prepare(cfg)
    before = DatasetCatalog.get("a")
    (tmp_path / "data").rename(tmp_path / "gone")
    (tmp_path / "output").rename(tmp_path / "moved")
    forget(["a"])
    cfg.OUTPUT_DIR = "moved"
    for _ in range(2):
        register_datasets(cfg)
        assert DatasetCatalog.get("a") == before


def test_a_resumed_run_needs_no_source(tmp_path, caplog):
    """What an earlier start wrote from the same source and split is used; nothing else is."""
    path = write_dataset(tmp_path, coco_content(4))
    cfg = new_cfg("MODEL.MASK_ON", True)
    declare_datasets(cfg, train=[f"a={path}"], val_fraction=0.5)
    infer_and_register(cfg)
    check_data(cfg, training=True)
    before = [DatasetCatalog.get(n) for n in ("a_split_train", "a_split_val")]
    path.unlink()
    for _ in range(2):
        caplog.clear()
        check_data(cfg, training=True)
        assert "data.json does not exist. Using output/datasets/a_split_train.json" in caplog.text
        assert [DatasetCatalog.get(n) for n in ("a_split_train", "a_split_val")] == before
    cfg.DATASETS.VAL_FRACTION = 0.25
    with pytest.raises(DataError, match=r"data\.json does not exist"):
        check_data(cfg, training=True)


def test_a_new_start_uses_the_changed_source(tmp_path):
    path = write_dataset(tmp_path, coco_content(3))
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={path}"])
    infer_and_register(cfg)
    for count in (3, 2):
        path.write_text(json.dumps(coco_content(count)))
        check_data(cfg, training=True)
        assert len(DatasetCatalog.get("a")) == count


def test_the_written_json_has_the_classes_of_the_run_as_ids_1_to_k(tmp_path):
    """Ids 7 and 44 in the source, polygons, compressed and plain RLE, a crowd region."""
    content = coco_content(2)
    content["categories"] = [{"id": 44, "name": "ring"}, {"id": 7, "name": "disc"}]
    _, second, _, fourth = content["annotations"]
    second["segmentation"] = {"size": [10, 20], "counts": [40, 20, 140]}
    second["bbox"], fourth["iscrowd"] = [4, 0, 2, 10], 1
    for a in content["annotations"]:
        a["category_id"] = {1: 7, 2: 44}[a["category_id"]]
    path = write_dataset(tmp_path, content)
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={path}"])
    infer_and_register(cfg)
    prepare(cfg)
    found = written(cfg, "a")
    assert found["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}]
    assert [a["category_id"] for a in found["annotations"]] == [1, 2, 1, 2]
    ours = DatasetCatalog.get("a")
    try:
        assert ours == load_coco_json(str(path), str(tmp_path), "theirs")
    finally:
        MetadataCatalog.pop("theirs")
    assert sorted(os.listdir(prepared_file(cfg, "a").parent)) == ["a.json", "a.statistics.json"]


def test_statistics_of_what_was_checked(tmp_path):
    write_dataset(tmp_path, coco_content(3))
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={tmp_path}/data.json"])
    infer_from_files(cfg)
    prepare(cfg)
    assert read_statistics(cfg.OUTPUT_DIR, "a").per_class == {"disc": 3, "ring": 3}


def faulty_pair(tmp_path):
    """Training and validation json whose class ids differ; val numbers annotations from 0."""
    write_dataset(tmp_path / "t", coco_content(3))
    val = coco_content(2, classes=("ring", "disc"))
    for number, annotation in enumerate(val["annotations"]):
        annotation["id"] = number
    write_dataset(tmp_path / "v", val)
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"t={tmp_path}/t/data.json"], val=[f"v={tmp_path}/v/data.json"])
    infer_and_register(cfg)
    return cfg


def perfect_results(name, tmp_path):
    return evaluate(name, perfect_predictions(name), tmp_path / "out")


def test_repaired_data_are_what_is_evaluated(tmp_path):
    cfg = faulty_pair(tmp_path)
    problems = prepare(cfg)
    assert {p.kind for p in problems["v"]} == {"category-order", "annotation-id-0"}
    results = perfect_results("v", tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(100)
    # Category 1 of the validation json is "ring", class 1 of the run.
    (first, *_) = DatasetCatalog.get("v")
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]


def test_only_the_held_out_part_is_evaluated(tmp_path):
    write_dataset(tmp_path, coco_content(10))
    cfg = new_cfg()
    declare_datasets(cfg, train=[f"a={tmp_path}/data.json"], val_fraction=0.3)
    infer_and_register(cfg)
    prepare(cfg)
    assert perfect_results("a_split_val", tmp_path)["bbox"]["AP"] == pytest.approx(100)
    truth = written(cfg, "a_split_val")
    assert len(truth["images"]) == 3 and len(truth["annotations"]) == 6


def test_evaluating_twice_gives_the_same(tmp_path):
    """Evaluation neither reads the source nor changes what was written."""
    cfg = faulty_pair(tmp_path)
    prepare(cfg)
    (tmp_path / "v").rename(tmp_path / "gone")
    before = prepared_file(cfg, "v").read_bytes()
    results = [perfect_results("v", tmp_path) for _ in range(2)]
    assert prepared_file(cfg, "v").read_bytes() == before
    assert results[0]["bbox"]["AP"] == results[1]["bbox"]["AP"] == pytest.approx(100)


def test_images_of_validation_are_dropped_from_training(tmp_path):
    write_dataset(tmp_path / "t", coco_content(3))
    write_dataset(tmp_path / "v", coco_content(2))
    (tmp_path / "v/1.png").write_bytes((tmp_path / "t/2.png").read_bytes())
    for drop_bad, severity in ((False, "error"), (True, "dropped")):
        cfg = new_cfg("DATASETS.DROP_BAD", drop_bad)
        pair = {s: [f"{n}={tmp_path / n}/data.json"] for s, n in (("train", "t"), ("val", "v"))}
        declare_datasets(cfg, **pair)
        infer_and_register(cfg)
        (problem,) = prepare(cfg)["t"]
        assert (problem.severity.value, problem.kind, problem.image_id) == (
            *(severity, "train-val-overlap"),
            2,
        )
        if drop_bad:
            assert [r["image_id"] for r in DatasetCatalog.get("t")] == [1, 3]
        else:
            assert not prepared_file(cfg, "t").exists()  # nothing is written where errors are
            with pytest.raises(RunError, match="train-val-overlap"):
                check_data(cfg, training=True)
        assert prepare(cfg, training=False)["v"] == []


def test_training_and_validation_on_one_set_is_a_warning(tmp_path):
    write_dataset(tmp_path, coco_content(3))
    cfg = new_cfg()
    declaration = [f"a={tmp_path}/data.json"]
    declare_datasets(cfg, train=declaration, val=declaration)
    infer_from_files(cfg)
    problems = prepare(cfg)["a"]
    assert [(p.severity.value, p.kind) for p in problems] == [("warning", "train-is-val")]


def test_errors_stop_a_run_and_nothing_is_written(tmp_path):
    content = coco_content(2)
    content["annotations"][0]["bbox"] = [90, 90, 5, 5]
    write_dataset(tmp_path, content)
    cfg = new_cfg("DATASETS.FILES", (f"a={tmp_path}/data.json",), "DATASETS.TRAIN", ("a",))
    register_datasets(cfg)
    with pytest.raises(DataError, match=r"1 errors.*\n.*box-outside \(1\)\n.* annotation 1: "):
        check_data(cfg, training=True)
    assert not prepared_file(cfg, "a").exists()


def test_without_the_check_data_are_used_as_they_are(tmp_path):
    content = coco_content(2)
    content["annotations"][0]["bbox"] = [90, 90, 5, 5]
    write_dataset(tmp_path, content, images=False)
    declaration = (f"a={tmp_path}/data.json",)
    cfg = new_cfg("DATASETS.FILES", declaration, "DATASETS.CHECK", False)
    cfg.DATASETS.TRAIN = ("a",)
    register_datasets(cfg)
    check_data(cfg, training=True)
    (first, _) = DatasetCatalog.get("a")
    assert first["annotations"][0]["bbox"] == [90, 90, 5, 5]


def test_minor_repairs_are_not_shown(tmp_path, caplog):
    """One line for a dataset that lacks `info` and the like; a repaired box is shown."""
    content = coco_content(2)
    del content["info"], content["annotations"][0]["area"]
    path = write_dataset(tmp_path, content)
    cfg = new_cfg("MODEL.MASK_ON", True)
    declare_datasets(cfg, train=[f"a={path}"])
    infer_and_register(cfg)
    with caplog.at_level("INFO", logger="mrcnn_plugin"):
        check_data(cfg, training=True)
    (line,) = [r.getMessage() for r in caplog.records if "'a'" in r.getMessage()]
    assert line == (
        f"checked 'a': 2 images, 4 annotations, no problem, written to {prepared_file(cfg, 'a')}"
    )
    assert "no-info (1)" in Path(cfg.OUTPUT_DIR, "data_problems.txt").read_text()
    caplog.clear()
    content["annotations"][1]["bbox"] = [2, 2, 0, 0]
    path.write_text(json.dumps(content))
    check_data(cfg, training=True)
    assert "2 images, 4 annotations, 1 repaired, written" in caplog.text
    assert "repaired: empty-box (1)" in caplog.text


def test_make_evaluable():
    content = coco_content(1)
    assert make_evaluable(content) == content
    for bad_id in (0, "one", 2):  # 2 is the id of the other annotation
        content["annotations"][0]["id"] = bad_id
        del content["info"], content["licenses"]
        before = json.dumps(content)
        found = make_evaluable(content)
        assert (found["info"], found["licenses"]) == ({}, [])
        assert [a["id"] for a in found["annotations"]] == [1, 2]
        assert json.dumps(content) == before
        content |= {"info": {}, "licenses": []}


def _in_two_processes(args):
    """Rank 0 has the data; then an error in them, an unexpected error, an OUTPUT_DIR of its own."""
    from detectron2.utils import comm

    from mrcnn_plugin.data.processes import run_on_main_process

    folder = args.folder
    cfg = new_cfg("OUTPUT_DIR", f"{folder}/output")
    declare_datasets(cfg, train=[f"a={folder}/data.json"])
    infer_and_register(cfg)
    found = [cfg.DATASETS.CLASS_NAMES]
    check_data(cfg, training=True)
    found.append(len(DatasetCatalog.get("a")))
    Path(folder, "2.png").rename(f"{folder}/gone") if comm.is_main_process() else None
    for call in (
        lambda: check_data(cfg, training=True),
        lambda: run_on_main_process(lambda: 1 / 0),
    ):
        try:
            call()
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    Path(f"{folder}/gone").rename(f"{folder}/2.png") if comm.is_main_process() else None
    cfg.OUTPUT_DIR = f"{folder}/output_of_rank{comm.get_rank()}"
    try:
        check_data(cfg, training=True)
    except RunError as error:
        found.append(str(error))
    Path(folder, f"found{comm.get_rank()}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_processes_get_the_same_data_and_the_same_errors(tmp_path):
    write_dataset(tmp_path, coco_content(3))
    args = default_argument_parser().parse_args(["--num-gpus", "2", "--dist-url", "auto"])
    args.folder = str(tmp_path)
    launch(_in_two_processes, args)
    first, second = (json.loads((tmp_path / f"found{rank}.json").read_text()) for rank in (0, 1))
    assert first[:2] == second[:2] == [["disc", "ring"], 3]
    assert first[2] == second[2] and "2.png, image 2: the file does not exist" in first[2]
    assert first[2].startswith("DataError: the data have 1 errors")
    assert first[3].startswith("ZeroDivisionError")
    assert second[3].startswith("RunError: the main process failed: ZeroDivisionError")
    missing = f"{tmp_path}/output_of_rank1/datasets/a.json, written by the main process, does not"
    assert first[4] == second[4] and first[4].startswith(missing)


def test_builtin_names_are_checked_too(tmp_path, real_images, monkeypatch):
    """detectron2's registration of an unmodified COCO layout."""
    name = "coco_2017_val"
    metadata = MetadataCatalog.get(name)
    real = str(real_images / "coco_tiny/annotations/instances_val2017.json")
    content = json.loads((real_images / "coco_tiny/annotations/instances_val2017.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    (tmp_path / "val.json").write_text(json.dumps(content))
    root = str(real_images / "coco_tiny/val2017")
    cfg = load_cfg("mask_rcnn_R101_C4.yaml")
    for json_file, expected in ((real, set()), (str(tmp_path / "val.json"), {"empty-box"})):
        monkeypatch.setitem(metadata.__dict__, "json_file", json_file)
        monkeypatch.setitem(metadata.__dict__, "image_root", root)
        (problems,) = prepare(cfg, training=False).values()
        assert {p.kind for p in problems} == {"unused-category"} | expected
        assert {p.severity.value for p in problems} == {"warning"}
        assert read_statistics(cfg.OUTPUT_DIR, name).summary()["images"] == len(content["images"])
        assert not prepared_file(cfg, name).exists()
    assert json.loads((tmp_path / "val.json").read_text()) == content


def test_num_classes_below_the_categories_is_an_error(tmp_path):
    cfg = faulty_pair(tmp_path)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    problems = prepare(cfg)
    for name in ("t", "v"):
        assert ("error", "num-classes") in [(p.severity.value, p.kind) for p in problems[name]]


def test_num_classes_above_the_categories_is_an_error_if_it_is_evaluated(tmp_path):
    """detectron2's evaluation stops at the first detection of a class that the dataset lacks."""
    cfg = faulty_pair(tmp_path)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    problems = prepare(cfg)
    kinds = {
        name: [p.severity.value for p in problems[name] if p.kind == "num-classes"]
        for name in ("t", "v")
    }
    assert kinds == {"t": ["warning"], "v": ["error"]}
