"""`mrcnn serve`: the page in a browser, its API, its limits, and what remains at the end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import ROOT, tiny_model_file
from pycocotools.coco import COCO

from mrcnn_plugin import Predictor
from mrcnn_plugin.cli import serve
from mrcnn_plugin.data import make_shapes
from mrcnn_plugin.errors import RunError

# The command, with a list of every address that the process connects to or looks up.
PROGRAM = """
import sys

def listen(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = args[1] if event == "socket.connect" else args
        print(address[0], file=open(sys.argv[1], "a"))

sys.addaudithook(listen)
from mrcnn_command import main
main(["serve", *sys.argv[2:]])
"""


class Server:
    def __init__(self, root):
        self.model = tiny_model_file(root / "model.pth", score_thresholds=[0.2, None, 0.2])
        make_shapes(root / "images/shapes.json", 1, seed=1)
        self.image = root / "images/00001.png"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.addresses, self.temporary = root / "addresses.txt", root / "temporary"
        self.temporary.mkdir()
        arguments = [self.model, "--device", "cpu", "--port", self.port]
        limits = ["--max-megabytes", 1, "--max-megapixels", 1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, [self.addresses, *arguments, *limits])],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.temporary), "GRADIO_ALLOWED_PATHS": "/"},
            text=True,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline().startswith(self.url)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("gradio", reason="pip install 'mrcnn_plugin[serve]' to run this test")
    server = Server(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()


def expected(server, threshold):
    instances = Predictor(server.model, device="cpu", threshold=threshold)(str(server.image))
    return instances[instances.pred_masks.areas() > 0]


@pytest.mark.slow
def test_programs_get_what_the_predictor_finds(server, tmp_path):
    """Also: limits of uploads, no connection to the outside, and nothing remains after SIGTERM."""
    gradio_client = pytest.importorskip("gradio_client", reason="pip install gradio_client")
    client = gradio_client.Client(server.url, verbose=False, download_files=str(tmp_path / "out"))

    def upload(path, **kwargs):
        return client.predict(gradio_client.handle_file(str(path)), api_name="/predict", **kwargs)

    classes = ["apple", "cup", "pen"]
    found = expected(server, 0.1)
    drawn, count, json_file, masks = upload(server.image, threshold=0.1, classes=classes)
    assert count == f"{len(found)} instances" and len(found) > 2
    coco = COCO(json_file)
    assert [a["score"] for a in coco.dataset["annotations"]] == pytest.approx(
        found.scores.tolist(), abs=1e-5
    )
    assert coco.dataset["images"][0]["file_name"] == "00001.png"
    original = cv2.imread(str(server.image))
    assert cv2.imread(drawn).shape == original.shape and not (cv2.imread(drawn) == original).all()
    assert cv2.imread(masks, cv2.IMREAD_UNCHANGED).max() <= len(found)

    higher = float(found.scores[len(found) // 2])
    name = classes[int(found.pred_classes[0])]
    _, count, json_file, _ = client.predict(higher, [name], api_name="/filter")
    kept = found[(found.scores >= higher) & (found.pred_classes == found.pred_classes[0])]
    assert count == f"{len(kept)} instances" and 0 < len(kept) < len(found)
    assert len(json.loads(Path(json_file).read_text())["annotations"]) == len(kept)

    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(Exception, match=r"text\.png: .*cannot be read"):
        upload(tmp_path / "text.png", threshold=0.5, classes=classes)
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((1000, 1001, 3), np.uint8))
    with pytest.raises(Exception, match=r"wide\.png: .*1000000"):
        upload(tmp_path / "wide.png", threshold=0.5, classes=classes)
    (tmp_path / "heavy.png").write_bytes(bytes(1_100_000))
    with pytest.raises(Exception, match=r"(?i)413|size"):
        upload(tmp_path / "heavy.png", threshold=0.5, classes=classes)
    for path in (server.model, "/etc/passwd"):  # no file of the machine is served
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{server.url}/gradio_api/file={path}")

    assert list(server.temporary.rglob("00001.png"))
    assert server.stop() == 128 + signal.SIGTERM
    assert list(server.temporary.iterdir()) == []
    assert {*server.addresses.read_text().split()} <= {"127.0.0.1"}


@pytest.mark.slow
def test_the_page_in_a_browser(server):
    reason = "pip install playwright, and apt-get install chromium, to run this test"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip(reason)
    requests, problems = [], []
    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.locator("input[type=file]").set_input_files(str(server.image))
        slider = page.get_by_label("number input for Threshold")
        counts = {}
        for threshold in (None, 0.1, float(expected(server, 0.1).scores[1])):
            if threshold:
                slider.fill(f"{threshold:.2f}")
                slider.press("Enter")
            shown = float(slider.input_value())
            counts[shown] = len(expected(server, shown))
            playwright.expect(page.get_by_text(f"{counts[shown]} instances")).to_be_visible()
        drawn = page.locator("img[src*='gradio_api/file']")
        playwright.expect(drawn).to_be_visible()
        assert (
            drawn.evaluate("image => image.naturalWidth") == cv2.imread(str(server.image)).shape[1]
        )
        assert page.get_by_label("Share").count() == 0  # it would upload the image
        page.get_by_label("apple").uncheck()
        rest = expected(server, shown)
        rest = rest[rest.pred_classes != 0]
        playwright.expect(page.get_by_text(f"{len(rest)} instances")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_text("COCO json").click()
        content = json.loads(Path(download.value.path()).read_text())
        browser.close()
    assert len({*counts.values()}) > 1 and len(content["annotations"]) == len(rest)
    assert len(requests) > 5 and problems == []
    outside = [url for url in requests if not url.startswith((server.url, "data:", "blob:"))]
    assert outside == []
    assert server.stop(signal.SIGINT) == 130 and list(server.temporary.iterdir()) == []


@pytest.mark.parametrize("option", ["--port", "--tile", "--max-megabytes", "--max-megapixels"])
def test_numbers_below_1_are_rejected(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        serve.main(["model.pth", option, "0"])
    assert f"argument {option}: is 0; expected at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_that_does_not_exist(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="pip install 'mrcnn_plugin[serve]' to run this test")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "")  # restored afterwards
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    model = tiny_model_file(tmp_path / "model.pth")
    with pytest.raises(RunError, match="port 99999 cannot be used"):
        serve.main([str(model), "--device", "cpu", "--port", "99999"])


def test_without_gradio_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOWED_PATHS"):
        monkeypatch.setenv(name, "")  # restored afterwards
    with pytest.raises(RunError, match=r"Run `pip install 'mrcnn_plugin\[serve\]'`"):
        serve.main([str(tiny_model_file(tmp_path / "model.pth")), "--device", "cpu"])
