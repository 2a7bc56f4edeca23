"""The letters that a reader of digits is taught: drawn in other fonts for each part."""

import torch

from lora_edu.tasks.letters import FONTS, LETTERS, load_letters, vision_net, with_new_head


def test_each_part_has_fonts_of_its_own_and_every_letter_equally_often():
    fonts = [set(fonts) for fonts, _ in FONTS.values()]
    assert not (fonts[0] & fonts[1] or fonts[0] & fonts[2] or fonts[1] & fonts[2])
    letters = load_letters()
    for x, y, (names, times) in zip(letters[::2], letters[1::2], FONTS.values(), strict=True):
        assert x.shape == (len(y), 64) and x.min() >= 0 and 0.7 < x.max() <= 1
        assert y.bincount().tolist() == [len(names) * times] * len(LETTERS)
        assert (x.mean(1) > 0.02).all()  # no empty picture
    assert torch.equal(letters.x_test, load_letters.__wrapped__().x_test)


def test_a_new_head_is_all_that_is_new_and_its_seed_draws_it():
    net, other = vision_net(), vision_net()
    with_new_head(net, seed=1)
    with_new_head(other, seed=2)
    assert net(torch.rand(3, 64)).shape == (3, 26)
    differ = {name for (name, a), b in zip(net.named_parameters(), other.parameters()) if not torch.equal(a, b)}
    assert differ == {"head.weight", "head.bias"}
