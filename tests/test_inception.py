"""The feature networks against fixtures and the packages people use."""

import hashlib
import http.server
import threading

import numpy as np
import pytest
import pytorch_fid.inception
import scorer
import torch
from scorer import relative

import fid_kid
from scoring import inception
from utils import UserError


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with scorer.cache_of_rule_weights(tmp_path_factory.mktemp("hub")) as path:
        yield fid_kid.InceptionV3(str(path))


def test_published_names_and_shapes():
    assert {k: tuple(v.shape) for k, v in inception.fid_inception().state_dict().items()} == scorer.KEYS


def test_fixture_features(net):
    fixture = np.load(scorer.FIXTURES / "inception.npz")
    images = torch.from_numpy(fixture["images"]).permute(0, 3, 1, 2)
    for pictures in (images, images.float() / 255, images.contiguous()):
        found = net(pictures)
        assert list(found) == [64, 192, 768, 2048, 1008]
        for dim in (64, 192, 768, 2048):
            assert found[dim].shape == (4, dim)
            assert relative(found[dim], fixture[f"features/{dim}"]) < 1e-4
        assert relative(found[1008], fixture["logits"]) < 1e-4


def test_stops_at_the_depth_asked_for(net):
    assert list(net(torch.rand(1, 3, 75, 75), upto=192)) == [64, 192]


def test_state_dict_and_file_are_the_same(net):
    image = torch.rand(1, 3, 299, 299)
    assert torch.equal(fid_kid.InceptionV3(scorer.rule_weights())(image)[2048], net(image)[2048])


@pytest.mark.parametrize("block,dim", [(0, 64), (1, 192), (2, 768), (3, 2048)])
def test_same_features_as_pytorch_fid(net, block, dim):
    theirs = pytorch_fid.inception.InceptionV3([block]).eval()
    for size in ((299, 299), (80, 131)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(dim))
        with torch.no_grad():
            expected = theirs(images)[0].mean((2, 3))
        assert relative(net(images)[dim], expected.numpy()) < 1e-4


def test_efficientnet_is_the_packages_own():
    found = fid_kid.EfficientNetLite0()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = found.net((255 * images - 127) / 128)
    outputs = found(images)
    assert outputs[1280].shape == (2, 1280)
    assert relative(outputs[1000], expected.numpy()) < 1e-5


def test_weights_are_downloaded_once_and_verified(tmp_path, monkeypatch):
    content, served = b"the weights", []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(inception, "WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/w.pth")
        with pytest.raises(UserError, match="hash"):
            inception.published_weights()
        assert not (tmp_path / "checkpoints" / "w.pth").exists()
        monkeypatch.setattr(inception, "WEIGHTS_SHA256", hashlib.sha256(content).hexdigest()[:8])
        for _ in range(2):
            assert inception.published_weights().read_bytes() == content
        assert len(served) == 2  # the refused one and the good one; then the cache
        server.shutdown()
