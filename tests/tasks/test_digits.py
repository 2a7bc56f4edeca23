"""The toy of digits: the same split upright and turned, and a network that really learns to read."""

import torch

from lora_edu.tasks.digits import accuracy, fit, load_digits, network


def test_turned_digits_are_the_same_digits_turned_and_no_test_digit_is_trained_on():
    upright, turned = load_digits(), load_digits(turned=True)
    assert upright.x_train.shape == (1297, 64) and upright.x_test.shape == (500, 64)
    assert torch.equal(upright.y_test, turned.y_test)
    image = upright.x_test[0].reshape(8, 8)
    assert torch.equal(torch.rot90(image, 1, dims=(0, 1)), turned.x_test[0].reshape(8, 8))
    pixels = torch.cat([upright.x_train, upright.x_test])
    assert pixels.min() >= 0 and pixels.max() == 1


def test_the_network_learns_to_read_upright_digits_and_cannot_read_turned_ones():
    model = fit(network(), load_digits(), epochs=4)
    assert accuracy(model, load_digits()) > 0.9 > 0.4 > accuracy(model, load_digits(turned=True))
