"""The VAE3 decoder: sizes, range, and batch norm that depends on the class."""

import pytest
import torch
import torch.nn.functional as F

from models.decoder import ClassConditionalBatchNorm2d, VAE3Decoder

B, K, D = 6, 4, 16


@pytest.fixture
def decoder() -> VAE3Decoder:
    return VAE3Decoder(D, K, image_size=82)


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randn(B, D)


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])  # class 3 is absent


def outputs_of(modules):
    """A list that the outputs of `modules` are appended to."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    return seen


@pytest.mark.parametrize("size", [28, 41, 224])
def test_maps_grow_to_41_pixels_and_the_image_size(codes, size):
    decoder = VAE3Decoder(D, K, size)
    maps = outputs_of(decoder.convolutions)
    assert decoder(codes, LABELS).shape == (B, 3, size, size)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 11, 11), (32, 21, 21), (3, 41, 41)]


def test_projection_gives_128_rectified_maps_of_6_pixels(decoder, codes):
    flat = decoder.project(codes)
    assert flat.shape == (B, 128 * 6 * 6)
    assert flat.min() == 0
    maps = []
    decoder.convolutions[0].register_forward_hook(lambda _module, inputs, _output: maps.append(inputs[0]))
    decoder(codes, LABELS)
    assert maps[0].shape == (B, 128, 6, 6)


def test_maps_are_rectified_between_convolutions(decoder, codes):
    inputs = []
    for convolution in decoder.convolutions:
        convolution.register_forward_hook(lambda _module, args, _output: inputs.append(args[0]))
    decoder(codes, LABELS)
    assert all(maps.min() == 0 for maps in inputs)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_images_lie_within_0_and_1(decoder, codes, scale):
    images = decoder(scale * codes, LABELS)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.05


def test_image_is_the_sigmoid_resized_without_aligned_corners(decoder, codes):
    maps = outputs_of([decoder.norms[-1]])
    images = decoder(codes, LABELS)
    expected = F.interpolate(torch.sigmoid(maps[0]), (82, 82), mode="bilinear", align_corners=False)
    torch.testing.assert_close(images, expected)


@pytest.mark.parametrize("size", [20, 82])
def test_resize_by_products_is_the_same_resize_with_the_same_gradient(size):
    """What a GPU does."""
    decoder, maps = VAE3Decoder(D, K, size), torch.rand(B, 3, 41, 41, requires_grad=True)
    ours = decoder.resize_by_products(maps)
    plain = F.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad(image.square().sum(), maps)[0] for image in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_norm_starts_as_plain_batch_norm():
    norm, maps = ClassConditionalBatchNorm2d(3, K), torch.randn(B, 3, 5, 5)
    torch.testing.assert_close(norm(maps, LABELS), F.batch_norm(maps, None, None, training=True))


def test_norm_is_scaled_and_shifted_by_class():
    norm, maps = ClassConditionalBatchNorm2d(3, K), torch.randn(B, 3, 5, 5)
    torch.nn.init.normal_(norm.gain)
    torch.nn.init.normal_(norm.bias)
    plain, result = F.batch_norm(maps, None, None, training=True), norm(maps, LABELS)
    for image in range(B):
        for channel in range(3):
            gain, bias = norm.gain[LABELS[image], channel], norm.bias[LABELS[image], channel]
            torch.testing.assert_close(result[image, channel], (1 + gain) * plain[image, channel] + bias)


@pytest.mark.parametrize("name", ["gain", "bias"])
def test_image_depends_on_the_label_once_learned(decoder, codes, name):
    others = (LABELS + 1) % K
    assert torch.equal(decoder(codes, LABELS), decoder(codes, others))
    with torch.no_grad():
        for norm in decoder.norms:
            getattr(norm, name).normal_()
    assert not torch.allclose(decoder(codes, LABELS), decoder(codes, others), atol=0.01)


def test_gradient_reaches_the_class_parameters_of_the_labels_alone(decoder, codes):
    (decoder(codes, LABELS) - torch.rand(B, 3, 82, 82)).square().mean().backward()
    for norm in decoder.norms:
        for parameter in (norm.gain, norm.bias):
            assert (parameter.grad[:3] != 0).any(dim=1).all()
            assert (parameter.grad[3] == 0).all()


def test_maps_grow_by_the_same_convolution_in_training_and_evaluation(decoder):
    for convolution, (side, channels) in zip(decoder.convolutions, [(6, 128), (11, 64), (21, 32)], strict=True):
        maps = torch.randn(B, channels, side, side)
        expected = F.conv_transpose2d(maps, convolution.weight, convolution.bias, stride=2, padding=1)
        assert torch.equal(convolution.train()(maps), expected)
        torch.testing.assert_close(convolution.eval()(maps), expected)


def test_fewer_passes_draw_the_same_images(decoder, codes):
    """What a GPU does in evaluation."""
    for norm in decoder.norms:
        torch.nn.init.normal_(norm.gain)
        torch.nn.init.normal_(norm.bias)
    decoder(codes, LABELS)  # whose statistics are then part of the running ones
    projected = decoder.eval().project(codes)
    torch.testing.assert_close(
        decoder.render_maps(projected, LABELS, True), decoder.render_maps(projected, LABELS, False)
    )


def test_evaluation_does_not_look_at_the_rest_of_the_batch(decoder, codes):
    decoder(codes, LABELS)
    decoder.eval()
    torch.testing.assert_close(decoder(codes, LABELS)[:1], decoder(codes[:1], LABELS[:1]))
