"""Perceptual networks against golden values and the `lpips` package, and how they fail."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vidwm.errors import UserError
from vidwm.reward import backbones
from vidwm.reward.perceptual import PerceptualNet, available_perceptual, load_perceptual
from vidwm.reward.scorer import Scorer
from vidwm.reward.weights import DOWNLOAD_VARIABLE, WEIGHT_FILES, WEIGHTS_VARIABLE


@pytest.fixture(scope="module")
def net() -> PerceptualNet:
    return load_perceptual()


@pytest.fixture
def weights_folder(tmp_path, monkeypatch) -> Path:
    """An empty folder for trunk weights, and a hub cache that is empty as well."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def any_sum(monkeypatch) -> None:
    """Weight files are taken whatever their SHA-256."""
    monkeypatch.setattr("vidwm.reward.weights._verify", lambda path, digits: None)


class TinyLinear(nn.Linear):
    """Stands for the unused classifiers of torchvision's networks, slow to initialise."""

    def __init__(self, *_: int) -> None:
        super().__init__(1, 1)


def random_frames(count: int, size: tuple[int, int] = (32, 40), seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["st_lpips_alex", "st_lpips_vgg"])
def test_equals_the_reference_implementation(name, shared):
    golden = load_file(shared / "golden/metrics_io.safetensors")
    with torch.inference_mode():
        ours = load_perceptual(name)(golden["pred"] / 255, golden["true"] / 255)
    torch.testing.assert_close(ours, golden[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trunk", ["alex", "vgg", "squeeze"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_the_lpips_package_on_equal_weights(trunk, weights_folder, any_sum, monkeypatch):
    monkeypatch.setattr(nn, "Linear", TinyLinear)
    theirs = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    # Their keys read slice<i>.<layer>.<...>, where torchvision's read features.<layer>.<...>.
    state = {f"features.{k.split('.', 1)[1]}": v for k, v in theirs.net.state_dict().items()}
    name = f"lpips_{trunk}"
    torch.save(state, weights_folder / WEIGHT_FILES[name].trunk_file)
    pred, true = random_frames(2, (65, 50)), random_frames(2, (65, 50), seed=1)
    with torch.inference_mode():
        expected = theirs(pred, true, normalize=True).flatten()
        ours = load_perceptual(name)(pred, true)
    assert expected.min() > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_distance_is_zero_for_equal_frames_symmetric_and_grows(net):
    true, noise = random_frames(2), random_frames(2, seed=1) - 0.5
    with torch.inference_mode():
        assert net(true, true).tolist() == [0, 0]
        small, large = net(true, true + 0.05 * noise), net(true, true + 0.5 * noise)
        torch.testing.assert_close(net(true + 0.5 * noise, true), large)
    assert (small > 0).all() and (small < large).all()


def test_a_frame_is_scored_alike_alone_and_in_a_batch(net):
    pred, true = random_frames(3), random_frames(3, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(net(pred[1:2], true[1:2]), net(pred, true)[1:2])


def test_gradient_reaches_pred_alone_and_leads_downhill(net):
    pred, true = random_frames(2).requires_grad_(), random_frames(2, seed=1).requires_grad_()
    before = net(pred, true).sum()
    before.backward()
    assert true.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())
    step = 1e-3 / pred.grad.norm()
    with torch.no_grad():
        after = net(pred - step * pred.grad, true).sum()
    drop = step * pred.grad.square().sum()
    torch.testing.assert_close(before.detach() - after, drop, rtol=0.05, atol=1e-6)


def test_dead_features_give_zero_distance_and_gradient_not_nan():
    trunk = backbones.alexnet()
    with torch.no_grad():
        for module in nn.ModuleList(trunk).modules():
            if isinstance(module, nn.Conv2d):
                module.bias.fill_(-1e3)
    net = PerceptualNet(trunk, [torch.ones(width) for width in (64, 192, 384, 256, 256)])
    pred = random_frames(1, (64, 64)).requires_grad_()
    distance = net(pred, random_frames(1, (64, 64), seed=1)).sum()
    distance.backward()
    assert distance == 0 and pred.grad.abs().max() == 0


def test_runs_in_fp32_under_autocast(net):
    pred, true = random_frames(1), random_frames(1, seed=1)
    with torch.inference_mode():
        expected = net(pred, true)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(net(pred, true), expected)


def test_negative_heads_are_refused():
    with pytest.raises(ValueError, match="head 1 has negative"):
        PerceptualNet(backbones.squeezenet(), [torch.ones(64), -torch.ones(128)])


def test_frames_too_small_for_the_trunk_are_refused(net):
    with pytest.raises(UserError, match="at least 32 x 32 pixels, got 31 x 64"):
        net.features(torch.zeros(1, 3, 31, 64))


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_smallest_frames_pass_every_trunk(name):
    trunks = {
        "st_lpips_alex": backbones.st_alexnet,
        "st_lpips_vgg": backbones.st_vgg16,
        "lpips_alex": backbones.alexnet,
        "lpips_vgg": backbones.vgg16,
        "lpips_squeeze": backbones.squeezenet,
    }
    maps = torch.zeros(1, 3, 32, 32)
    for stage in trunks[name]():
        maps = stage(maps)
    assert maps.numel() > 0


def test_only_metrics_with_weights_are_available(weights_folder):
    assert available_perceptual() == ["st_lpips_alex", "st_lpips_vgg"]
    (weights_folder / "vgg16-397923af.pth").touch()
    assert available_perceptual() == ["st_lpips_alex", "st_lpips_vgg", "lpips_vgg"]


def test_the_hub_cache_is_searched_too(weights_folder, monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    cache = weights_folder / "hub/hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / "alexnet-owt-7be5be79.pth").touch()
    assert "lpips_alex" in available_perceptual()


def test_missing_trunk_weights_say_which_file_and_where(weights_folder):
    with pytest.raises(UserError) as error:
        load_perceptual("lpips_vgg")
    message = str(error.value)
    assert "vgg16-397923af.pth" in message and WEIGHTS_VARIABLE in message
    assert str(weights_folder) in message and "st_lpips_alex" in message


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("vidwm.reward.weights.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install stlpips_pytorch"):
        load_perceptual("st_lpips_alex")
    assert available_perceptual() == []


@pytest.mark.parametrize("content", [b"", b"not a weight file", b"PK\x03\x04 cut short"])
def test_damaged_weights_name_the_file(weights_folder, any_sum, content):
    (weights_folder / "alexnet-owt-7be5be79.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth is damaged"):
        load_perceptual("lpips_alex")


def test_weights_of_another_network_are_refused(weights_folder, any_sum):
    torch.save({"features.0.weight": torch.zeros(1)}, weights_folder / "alexnet-owt-7be5be79.pth")
    with pytest.raises(UserError, match="do not hold the expected network"):
        load_perceptual("lpips_alex")


def test_files_with_another_sum_are_refused(weights_folder, monkeypatch):
    (weights_folder / "alexnet-owt-7be5be79.pth").write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"alexnet-owt-7be5be79\.pth has SHA-256 \w{8}, not 7be5be79"
    ):
        load_perceptual("lpips_alex")
    changed = replace(WEIGHT_FILES["st_lpips_alex"], sha256="0" * 64)
    monkeypatch.setitem(WEIGHT_FILES, "st_lpips_alex", changed)
    with pytest.raises(UserError, match=r"alex_shift_tolerant\.pth has SHA-256"):
        load_perceptual("st_lpips_alex")


def test_weights_are_downloaded_only_when_allowed(weights_folder, any_sum, monkeypatch):
    asked = []

    def download(url, path, digits):
        asked.append((url, digits))
        torch.save({"features.0.weight": torch.zeros(1)}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match=f"set {DOWNLOAD_VARIABLE}=1"):
        load_perceptual("lpips_squeeze")
    monkeypatch.setenv(DOWNLOAD_VARIABLE, "1")
    assert "lpips_squeeze" not in available_perceptual() and not asked
    with pytest.raises(
        UserError, match="do not hold the expected network"
    ):  # it came, and was read
        load_perceptual("lpips_squeeze")
    name = "squeezenet1_1-b8a52dc0.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", "b8a52dc0")]
    assert (weights_folder / "hub/hub/checkpoints" / name).is_file()


@pytest.fixture
def mirror(weights_folder, monkeypatch) -> Path:
    """A folder in the place of PyTorch's server; downloads are allowed."""
    folder = weights_folder / "mirror"
    folder.mkdir()
    monkeypatch.setattr("vidwm.reward.weights.SOURCE", f"{folder.as_uri()}/")
    monkeypatch.setenv(DOWNLOAD_VARIABLE, "1")
    return folder


def test_a_download_takes_its_name_only_if_its_sum_is_right(mirror, weights_folder, monkeypatch):
    content = b"weights"
    digits = hashlib.sha256(content).hexdigest()[:8]
    good, bad = f"alexnet-owt-{digits}.pth", "alexnet-owt-00000000.pth"
    cache = weights_folder / "hub/hub/checkpoints"
    for name, message in ((bad, "Cannot download .*invalid hash"), (good, "is damaged or not a")):
        (mirror / name).write_bytes(content)
        files = replace(WEIGHT_FILES["lpips_alex"], trunk_file=name)
        monkeypatch.setitem(WEIGHT_FILES, "lpips_alex", files)
        with pytest.raises(UserError, match=message):
            load_perceptual("lpips_alex")
    assert [path.name for path in cache.iterdir()] == [good]


def test_a_file_in_the_chosen_folder_comes_before_the_hub_cache(weights_folder):
    cache = weights_folder / "hub/hub/checkpoints"
    cache.mkdir(parents=True)
    for folder in (cache, weights_folder):
        (folder / "vgg16-397923af.pth").write_bytes(b"something else")
    with pytest.raises(UserError) as error:
        load_perceptual("lpips_vgg")
    assert f"{weights_folder / 'vgg16-397923af.pth'} has SHA-256" in str(error.value)


def test_a_file_is_summed_once_and_again_when_it_changes(weights_folder, monkeypatch):
    summed = []
    sha256 = hashlib.sha256
    path = weights_folder / "alexnet-owt-7be5be79.pth"

    def load(content, changed):
        path.write_bytes(content)
        os.utime(path, ns=(changed, changed))
        with pytest.raises(UserError, match="has SHA-256"):
            load_perceptual("lpips_alex")

    load(b"one", 1)
    monkeypatch.setattr(hashlib, "sha256", lambda: summed.append(1) or sha256())
    load(b"one", 1)
    assert len(summed) == 0
    load(b"two, later", 2)
    assert len(summed) == 1


def test_a_failed_download_says_what_to_do(weights_folder, monkeypatch):
    def fail(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setenv(DOWNLOAD_VARIABLE, "1")
    with pytest.raises(UserError, match=r"no route to host\): put the file into .*checkpoints"):
        load_perceptual("lpips_vgg")


@pytest.mark.parametrize(
    "bad", [-torch.rand(1, 1, 1, 3, 32, 32), 255 * torch.rand(1, 1, 1, 3, 32, 32)]
)
def test_frames_of_another_range_are_refused_by_the_scorer(bad):
    scorer = Scorer(["lpips"])
    true = torch.rand(1, 1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"pred must lie in \[0, 1\]"):
        scorer.score_frames(bad, true)
    with pytest.raises(ValueError, match=r"true must lie in \[0, 1\]"):
        scorer.score_frames(true[:, None], bad[:, 0])
    with pytest.raises(ValueError, match="floating point"):
        scorer.score_frames((255 * true[:, None]).byte(), true)


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'lpips_vgg'"):
        load_perceptual("lpips_vg")
