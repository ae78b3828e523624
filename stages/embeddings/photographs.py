"""A photograph through the encoder of a table: framed, normalised and embedded as every stored image was."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from stages.contract import Input
from stages.embeddings.adopted import KIND
from stages.embeddings.format import Vectors
from stages.encoders.encoder import Encoder, Fingerprint
from stages.encoders.load import load
from stages.encoders.spec import EncoderSpec, Oracle, Pretrained
from stages.errors import InputError
from stages.images.image_file import decode_fit
from stages.images.sets import open_images


def load_checked(attributes: Mapping[str, Any], images: Input, encoder: Input | None) -> Encoder:
    """The encoder that made a table, on the CPU.

    `attributes` are those of the table, `images` the artifact it was made of, `encoder` the encoder's where it is one.
    InputError where the encoder gives other embeddings here than it gave when the table was made.
    """
    if attributes["encoder"].get("kind") == KIND:
        raise InputError(
            "a table that an encoder of the study has made",
            "adopted vectors, whose encoder is not known",
            "Embed the photograph yourself and give `nearest` the vector.",
        )
    spec: EncoderSpec = TypeAdapter(EncoderSpec).validate_python(attributes["encoder"])
    inputs: dict[str, Input] = {}
    if isinstance(spec, Pretrained):
        if encoder is None:
            raise InputError(
                "the encoder of the table among the steps of the study", "none", "Take a store that holds its step."
            )
        inputs[spec.input] = encoder
    if isinstance(spec, Oracle):
        inputs["images"] = images
    loaded = load(spec, inputs, "cpu")
    made_by = Fingerprint.model_validate(attributes["fingerprint"])
    if differences := made_by.differences(loaded.fingerprint()):
        raise InputError(
            "the encoder that made the table",
            differences,
            "Use the library versions that it was made with, or run again with --force for that embeddings step.",
        )
    return loaded


def embed(encoder: Encoder, images: Input, photograph: bytes, view: str) -> dict[str, Vectors]:
    """The vectors of one image by tap, float32 [D]. InputError where the image cannot be read."""
    framed = decode_fit(photograph, encoder.preprocessing.framing, scaled=open_images(images).scaled)
    # Copied, since torch warns of an image that cannot be written to.
    shown = np.stack([framed if view == "plain" else framed[:, ::-1]])
    return {tap: vectors[0] for tap, vectors in encoder.embed(shown).items()}
