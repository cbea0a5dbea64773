"""Keyed random numbers: a generator depends on nothing but seed, purpose and index."""

import hashlib

import torch


def make_generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a generator that depends on nothing but seed, purpose and index: no state to save, none to restore."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, index))


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Mix seed, purpose and index to 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
