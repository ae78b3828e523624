"""How the tokens of a submodule become one vector."""

import pytest
import torch

from stages.encoders.taps import pool
from stages.errors import InputError


def test_registers_are_the_tokens_between_the_class_token_and_the_patches() -> None:
    tokens = torch.arange(2 * 7 * 3, dtype=torch.float32).reshape(2, 7, 3)
    torch.testing.assert_close(pool(tokens, "registers", 4, None, "tap"), tokens[:, 1:3].mean(1))
    torch.testing.assert_close(pool(tokens, "registers", None, 3, "tap"), tokens[:, 1:3].mean(1))


@pytest.mark.parametrize(("tokens", "message"), [((1, 5, 3), "to have registers.*1 tokens"), ((1, 3, 2, 2), "tokens")])
def test_registers_are_asked_of_tokens_that_have_some(tokens: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pool(torch.zeros(tokens), "registers", 4, None, "tap")
