"""From a spec to the encoder it names: frozen, checked, on its device."""

from stages.contract import Input, Inputs
from stages.encoders import card
from stages.encoders.augment import Augmentations
from stages.encoders.encoder import Encoder, NetworkEncoder, probe_batch, require_same
from stages.encoders.format import CARD, read_card, read_network
from stages.encoders.network import initialise
from stages.encoders.oracle import OracleEncoder
from stages.encoders.spec import EncoderSpec, Oracle, Pretrained, Untrained
from stages.errors import InputError

UNTRAINED_SEED = 20_261
"""Of the weights of networks that an encoder is compared with: another than encoders are trained from."""


def load(spec: EncoderSpec, inputs: Inputs, device: str) -> Encoder:
    """The encoder that `spec` names.

    One that is an artifact is read from the input that the spec names, an oracle takes the truth from input `images`.
    Raises InputError where the input is missing or the encoder no longer gives the embeddings it was stored with,
    FormatError where its files are damaged.
    """
    match spec:
        case Pretrained():
            if spec.input not in inputs:
                raise InputError(
                    expected=f"the encoder's artifact as input {spec.input!r}",
                    found=f"inputs {', '.join(sorted(inputs)) or 'none'}",
                    remedy="Wire the step that makes it.",
                )
            return _stored(inputs[spec.input], device)
        case Untrained():
            return NetworkEncoder(initialise(spec.architecture, spec.seed), spec.preprocessing, device)
        case Oracle():
            return OracleEncoder(inputs.get("images"))


def trained_with(encoder: Input) -> Augmentations | None:
    """The augmentations that an encoder's artifact says it was trained with; None: it is not known."""
    if CARD in encoder.names():
        return read_card(encoder).augmentations
    return card.parse_card(encoder.read(card.CARD)).augmentations


def untrained(encoder: Input, device: str) -> Encoder:
    """The network of an encoder's artifact with other weights, drawn at random as before a training.

    It sees images as the encoder does and has its taps: what it does as well, no training has taught.
    """
    if CARD not in encoder.names():
        from stages.encoders import imported

        return imported.untrained(encoder, device)
    own = read_card(encoder)
    network = initialise(own.architecture, UNTRAINED_SEED, own.projector_norm)
    return NetworkEncoder(network, own.preprocessing, device)


def _stored(artifact: Input, device: str) -> Encoder:
    """The encoder that `pretrain` trained or that was imported."""
    if CARD not in artifact.names():
        # Not at the top: it knows the libraries of every kind of source.
        from stages.encoders import imported

        return imported.read(artifact, device)
    network, own, probes = read_network(artifact)
    encoder = NetworkEncoder(network, own.preprocessing, device)
    found = encoder.embed(probe_batch(own.preprocessing.size))
    require_same({tap: values.numpy() for tap, values in probes.items()}, found)
    return encoder
