"""The toy of digits: the same split upright and turned, and a network that really learns to read."""

import copy

import torch

from lora_edu.tasks.digits import accuracy, load_digits, network, train_digits


def test_turned_digits_are_the_same_digits_turned_and_no_test_digit_is_trained_on():
    upright, turned = load_digits(), load_digits(turned=True)
    assert upright.x_train.shape == (1297, 64) and upright.x_test.shape == (300, 64)
    assert upright.x_valid.shape == (200, 64) and torch.equal(upright.y_valid, turned.y_valid)
    assert torch.equal(upright.y_test, turned.y_test)
    image = upright.x_test[0].reshape(8, 8)
    assert torch.equal(torch.rot90(image, 1, dims=(0, 1)), turned.x_test[0].reshape(8, 8))
    pixels = torch.cat([upright.x_train, upright.x_valid, upright.x_test])
    assert len(pixels) == 1797
    assert pixels.min() >= 0 and pixels.max() == 1


def test_the_network_learns_to_read_upright_digits_and_cannot_read_turned_ones():
    model = train_digits(network(), load_digits(), epochs=4)
    assert accuracy(model, load_digits(), "valid") > 0.9
    assert accuracy(model, load_digits()) > 0.9 > 0.4 > accuracy(model, load_digits(turned=True))


def test_sgd_takes_other_steps_than_adamw():
    start, digits = network(), load_digits()
    by_adam, by_sgd = (train_digits(copy.deepcopy(start), digits, epochs=1, momentum=m) for m in (None, 0.9))
    moved = [(end[2].weight - start[2].weight).abs() for end in (by_adam, by_sgd)]
    assert moved[0].median() > 0.1 * moved[0].max() and moved[1].median() < 0.1 * moved[1].max()


def test_an_optimizer_of_ones_own_is_used_and_every_step_is_watched():
    digits, seen = load_digits(), []
    by_default, by_hand, slower = network(), network(), network()
    train_digits(by_default, digits, lr=2e-3, epochs=1, watch=seen.append)
    own = torch.optim.AdamW(by_hand.parameters(), lr=2e-3, weight_decay=0.0)
    train_digits(by_hand, digits, epochs=1, optimizer=own)
    train_digits(slower, digits, epochs=1, optimizer=torch.optim.AdamW(slower.parameters(), lr=1e-4, weight_decay=0.0))
    assert seen == list(range(1, 22))  # 1,297 digits in batches of 64
    assert torch.equal(by_default[0].weight, by_hand[0].weight) and not torch.equal(by_hand[0].weight, slower[0].weight)
