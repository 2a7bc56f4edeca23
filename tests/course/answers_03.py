"""Chapter 03: solutions, stubs and planted bugs. Those of 03.1 are the layers of tests/wrong_layers, which have their own test."""

import math

import torch
from kit import Answers
from torch import nn


class Layer(nn.Module):
    """Ten lines; subclasses change one thing."""

    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)


class Stub(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer
        self.A = ...
        self.B = ...

    def forward(self, x):
        return self.base_layer(x) + x @ self.A


class NoDivision(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.scaling = lora_alpha


class BothRandom(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        nn.init.normal_(self.B)


class BothZero(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        nn.init.zeros_(self.A)


class NotFrozen(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        base_layer.requires_grad_(True)


class Mirrored(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)


class StoredTransposed(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.A, self.B = nn.Parameter(self.A.data.T.clone()), nn.Parameter(self.B.data.T.clone())

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A @ self.B)


class ThirdFactor(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.C = nn.Parameter(torch.zeros(base_layer.out_features))

    def forward(self, x):
        return super().forward(x) + 0 * self.C


class FullMatrixBeside(Layer):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        self.C = nn.Parameter(torch.zeros_like(base_layer.weight))


class NoModule:
    def __init__(self, base_layer, r, lora_alpha):
        self.base_layer = base_layer

    def forward(self, x):
        return self.base_layer(x)


class NoSuper(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        self.base_layer = base_layer

    def forward(self, x):
        return self.base_layer(x)


class IsLinear(nn.Linear):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer.in_features, base_layer.out_features, base_layer.bias is not None)
        self.load_state_dict(base_layer.state_dict())
        self.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, self.in_features) / self.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(self.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return super().forward(x) + self.scaling * (x @ self.A.T @ self.B.T)


class NoForward(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features))
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))

    def forward(self, x): ...


class Misspelt(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = bass_layer  # noqa: F821

    def forward(self, x): ...


class NoTranspose(Layer):
    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A @ self.B)


class NoReturn(Layer):
    def forward(self, x):
        self.base_layer(x)


def factor_gradients(G, A, B, s):
    return s * B.T @ G, s * G @ A.T


def gradients_stub(G, A, B, s):
    grad_A = ...
    grad_B = ...
    return grad_A, grad_B


def merged(W0, A, B, alpha, r):
    return W0 + (alpha / r) * (B @ A)


def merged_stub(W0, A, B, alpha, r): ...


def merged_in_place(W0, A, B, alpha, r):
    W0 += (alpha / r) * (B @ A)
    return W0


STARTS = {
    "A random, B zero": (True, True),
    "A zero, B random": (True, True),
    "both zero": (True, False),
    "both random": (False, True),
}


ANSWERS = {
    "03.1": Answers(
        Layer,
        Stub,
        {
            "α not divided by r": NoDivision,
            "both factors random": BothRandom,
            "B and A both zero: dead": BothZero,
            "base not frozen": NotFrozen,
            "transposed product": NoTranspose,
            "a missing `return`": NoReturn,
            "not a class": Layer(nn.Linear(3, 3), 1, 1),
            "A and B exchanged at the start": Mirrored,
            "A is stored transposed": StoredTransposed,
            "an extra parameter trains": ThirdFactor,
            "does not inherit from nn.Module": NoModule,
            "`super().__init__()` is missing": NoSuper,
            "the layer is itself an nn.Linear": IsLinear,
            "`forward` is still to be written": NoForward,
            "a name that is not defined": Misspelt,
        },
    ),
    "03.2": Answers(
        factor_gradients,
        gradients_stub,
        {
            "the two are swapped": lambda G, A, B, s: (s * G @ A.T, s * B.T @ G),
            "the scale s is missing": lambda G, A, B, s: (B.T @ G, G @ A.T),
            "applied twice": lambda G, A, B, s: (s * B.T @ G, s * s * G @ A.T),
            "the sign is turned": lambda G, A, B, s: (-s * B.T @ G, -s * G @ A.T),
            "grad_A is the transpose of what is due": lambda G, A, B, s: (s * G.T @ B, s * G @ A.T),
            "grad_B is the transpose of what is due": lambda G, A, B, s: (s * B.T @ G, s * A @ G.T),
            "G is transposed": lambda G, A, B, s: (s * B.T @ (G.T if len(G) == len(G.T) else G), s * G @ A.T),
            "wrong shape": lambda G, A, B, s: (G, G),
            "grad_B is made of B": lambda G, A, B, s: (
                s * B.T @ G,
                s * (G if len(G) == len(G.T) else G.T) @ B[: len(G)],
            ),
            "a scale of 2 stands": lambda G, A, B, s: (2 * B.T @ G, 2 * G @ A.T),
            "all zeros": lambda G, A, B, s: (torch.zeros_like(A), s * G @ A.T),
            "it raises an error": lambda G, A, B, s: (s * B @ G, s * G @ A),
        },
    ),
    "03.3": Answers(
        STARTS,
        dict.fromkeys(STARTS),
        {
            "`learns` of 'A zero, B random'": STARTS | {"A zero, B random": (True, False)},
            "`learns` of 'A random, B zero'": STARTS | {"A random, B zero": (True, False)},
            "`learns` of 'both zero'": STARTS | {"both zero": (True, True)},
            "`silent` of 'both random'": STARTS | {"both random": (True, True)},
            "other keys": {},
        },
    ),
    "03.4": Answers(
        merged,
        merged_stub,
        {
            "α is not divided by r": lambda W0, A, B, alpha, r: W0 + alpha * (B @ A),
            "1/√r": lambda W0, A, B, alpha, r: W0 + alpha / math.sqrt(r) * (B @ A),
            "the scale is missing": lambda W0, A, B, alpha, r: W0 + B @ A,
            "W0 is missing": lambda W0, A, B, alpha, r: alpha / r * (B @ A),
            "an input is changed in place": merged_in_place,
            "it raises an error": lambda W0, A, B, alpha, r: W0 + (alpha / r) * (A @ B.T),
            "transposed product": lambda W0, A, B, alpha, r: W0 + (alpha / r) * (A.T @ B.T),
            "α/r is rounded to a whole number": lambda W0, A, B, alpha, r: W0 + int(alpha / r) * (B @ A),
            "α is missing": lambda W0, A, B, alpha, r: W0 + (B @ A) / r,
            "added twice": lambda W0, A, B, alpha, r: W0 + 2 * alpha / r * (B @ A),
            "α is applied twice": lambda W0, A, B, alpha, r: W0 + alpha * alpha / r * (B @ A),
            "held at 1 or more": lambda W0, A, B, alpha, r: W0 + max(1, alpha / r) * (B @ A),
            "a scale of 7 stands": lambda W0, A, B, alpha, r: W0 + 7 * (B @ A),
            "the scale multiplies W0 too": lambda W0, A, B, alpha, r: (alpha / r) * (W0 + B @ A),
            "precision lost on the way": lambda W0, A, B, alpha, r: (W0 + (alpha / r) * (B @ A)).bfloat16(),
        },
    ),
}
