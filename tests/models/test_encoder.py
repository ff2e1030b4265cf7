"""The ResNet encoder: what it feeds to the network, its sizes, and where pretrained weights come from."""

import hashlib
import io
import multiprocessing
import pickle
import socket
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import torch
import torchvision
from torch import nn

from models.encoder import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ResNetEncoder,
    feature_dim,
    fetch_pretrained,
)
from utils.errors import UserError
from utils.logs import start_logging
from utils.network import DOWNLOAD_TIMEOUT_S

WEIGHTS = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


class Response(io.BytesIO):
    """What urlopen gives back, with a body that is not the weights."""

    def info(self) -> Message:
        """The headers."""
        return Message()


class RunsCode:
    """A pickle that leaves a file behind where it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def network(monkeypatch):
    """Decides what every download ends in: network(exception or bytes)."""

    def answer_with(answer):
        def urlopen(*_args, **_kwargs):
            if isinstance(answer, Exception):
                raise answer
            return Response(answer)

        monkeypatch.setattr(torch.hub, "urlopen", urlopen)

    answer_with(URLError("no network"))
    return answer_with


@pytest.fixture
def weights_file(tmp_path, monkeypatch, network) -> Path:
    """Where torch.hub looks for ResNet-18's weights; there is nothing yet, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    path = tmp_path / "hub" / "checkpoints" / Path(WEIGHTS.url).name
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def put(weights_file, monkeypatch) -> Callable[[bytes], Path]:
    """Puts a file where torch.hub looks for ResNet-18's weights, its hash in its name: put(content) -> path."""

    def put_content(content: bytes) -> Path:
        path = weights_file.with_name(f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth")
        path.write_bytes(content)
        monkeypatch.setattr(WEIGHTS.value, "url", f"https://example.org/{path.name}")
        return path

    return put_content


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def damaged_archive() -> bytes:
    """A zip file of one member (torch's oldest format) with a flipped byte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("resnet18.pth", b"weights")
    return buffer.getvalue().replace(b"weights", b"Weights")


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES.values())))
def test_features_have_the_registered_length(name):
    with torch.device("meta"):
        assert ResNetEncoder(name)(torch.empty(2, 3, 64, 64)).shape == (2, feature_dim(name))


def test_resnet_vae3_is_resnet50():
    assert ARCHITECTURES["resnet_vae3"] == "resnet50"
    assert feature_dim("resnet_vae3") == 2048


def test_network_sees_imagenet_normalised_images():
    encoder = ResNetEncoder("resnet18")
    encoder.resnet = nn.Identity()
    images = torch.rand(2, 3, 8, 8)
    preset = WEIGHTS.transforms()
    expected = torchvision.transforms.functional.normalize(images, preset.mean, preset.std)
    torch.testing.assert_close(encoder(images), expected)


def test_normalisation_is_in_the_checkpoint():
    state = ResNetEncoder("resnet18").state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert state["std"].flatten().tolist() == pytest.approx(IMAGENET_STD)


def test_grey_equals_three_equal_channels():
    encoder = ResNetEncoder("resnet18").eval()
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)), rtol=0, atol=0)


def test_pretrained_weights_of_the_cache_are_used(put):
    state = torchvision.models.resnet18(weights=None).state_dict()
    put(saved(state))
    encoder = ResNetEncoder("resnet18", pretrained=True)
    loaded = encoder.resnet.state_dict()
    assert loaded.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_there_are_no_imagenet_weights_of_cifars_resnet():
    with pytest.raises(UserError, match="--pretrained: there are no ImageNet weights of resnet32"):
        ResNetEncoder("resnet32", pretrained=True)


@pytest.mark.parametrize(
    "answer",
    [URLError("no route"), HTTPError("", 403, "Forbidden", Message(), None), TimeoutError("timed out"), b"<html>"],
    ids=["unreachable", "refused", "stalled", "something else"],
)
def test_weights_that_cannot_be_fetched_say_where_to_put_them(weights_file, network, answer):
    network(answer)
    with pytest.raises(UserError) as error:
        ResNetEncoder("resnet18", pretrained=True)
    message = str(error.value)
    assert message.startswith("--pretrained: ")
    assert WEIGHTS.url in message
    assert f"put it at {weights_file}" in message
    assert not weights_file.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>sign in</html>",
        damaged_archive(),
        saved({"conv1.weight": torch.zeros(64, 3, 7, 7)})[:300],
        saved({"conv1.weight": torch.zeros(64, 3, 7, 7)}),
        saved({"model": 1}),
        saved([1, 2]),
    ],
    ids=["empty", "page", "damaged archive", "cut short", "other weights", "other dict", "no dict"],
)
def test_weights_that_do_not_load_are_named(put, content):
    path = put(content)
    with pytest.raises(UserError, match="delete it, or put a good copy there") as error:
        ResNetEncoder("resnet18", pretrained=True)
    assert str(path) in str(error.value)


def test_weights_that_load_and_are_not_the_published_ones_are_named(weights_file):
    """As a file of the cache with a flipped bit, or of another training, which torch.hub would load without a word."""
    weights_file.write_bytes(saved(torchvision.models.resnet18(weights=None).state_dict()))
    text = rf"{weights_file} cannot be used \(its SHA-256 does not begin with f37072fd\): delete it, or put a good copy"
    with pytest.raises(UserError, match=text):
        ResNetEncoder("resnet18", pretrained=True)


def test_weights_are_fetched_and_verified_without_a_network_to_load_them_into(weights_file, put):
    with pytest.raises(UserError, match=f"put it at {weights_file}"):
        fetch_pretrained("resnet18")
    path = put(b"weights")
    assert fetch_pretrained("resnet18") == path


def test_code_in_a_weights_file_does_not_run(put, tmp_path):
    put(pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError):
        ResNetEncoder("resnet18", pretrained=True)
    assert not (tmp_path / "ran").exists()


def test_download_has_a_timeout_and_leaves_none_behind(weights_file, monkeypatch):
    seen, timeouts = [], [7.0]

    def urlopen(*_args, **_kwargs):
        seen.append(socket.getdefaulttimeout())
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: timeouts[-1])
    monkeypatch.setattr(socket, "setdefaulttimeout", timeouts.append)
    with pytest.raises(UserError):
        ResNetEncoder("resnet18", pretrained=True)
    assert seen == [DOWNLOAD_TIMEOUT_S]
    assert timeouts[-1] == 7.0


def test_weights_are_fetched_without_a_word_on_standard_output(put, monkeypatch, network, capfd):
    content = saved(torchvision.models.resnet18(weights=None).state_dict())
    network(content)
    path = put(content)
    path.unlink()
    download = torch.hub.download_url_to_file
    asked = []

    def recorded(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, hash_prefix))
        download(url, path, hash_prefix, progress)

    monkeypatch.setattr(torch.hub, "download_url_to_file", recorded)
    for _ in range(2):
        ResNetEncoder("resnet18", pretrained=True)
    assert asked == [(WEIGHTS.url, WEIGHTS.url[-12:-4])]
    assert path.read_bytes() == content
    assert capfd.readouterr() == ("", "")


def test_cache_that_cannot_be_written_is_named(weights_file):
    weights_file.parent.rmdir()
    weights_file.parent.touch()
    with pytest.raises(UserError, match=f"--pretrained: {weights_file.parent} cannot be written .*TORCH_HOME"):
        ResNetEncoder("resnet18", pretrained=True)


def test_two_processes_fetch_the_weights_once(put, monkeypatch, capfd):
    fork = multiprocessing.get_context("fork")
    fetches, started, go_on = fork.Value("i", 0), fork.Event(), fork.Event()
    content = saved(torchvision.models.resnet18(weights=None).state_dict())
    weights_file = put(content)
    weights_file.unlink()

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetches.value += 1
        started.set()
        assert go_on.wait(60)
        Path(path).write_bytes(content)

    def run() -> None:
        start_logging(quiet=True)
        ResNetEncoder("resnet18", pretrained=True)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    first, second = fork.Process(target=run), fork.Process(target=run)
    first.start()
    assert started.wait(60)
    second.start()
    said = ""
    while "waiting for another process" not in said and second.is_alive():
        second.join(0.01)
        said += capfd.readouterr().err
    go_on.set()
    for process in (first, second):
        process.join(60)
        assert process.exitcode == 0
    assert f"it fetches {weights_file.name}" in said
    assert fetches.value == 1
