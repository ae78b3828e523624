"""From a spec to the encoder it names: frozen, checked, on its device."""

from stages.contract import Inputs
from stages.encoders.encoder import Encoder, NetworkEncoder, probe_batch, require_same
from stages.encoders.format import read_network
from stages.encoders.network import initialise
from stages.encoders.oracle import OracleEncoder
from stages.encoders.spec import EncoderSpec, Oracle, Pretrained, Untrained
from stages.errors import InputError


def load(spec: EncoderSpec, inputs: Inputs, device: str) -> Encoder:
    """The encoder that `spec` names.

    A pretrained one is read from the input that the spec names, an oracle takes the truth from the input `images`.
    Raises InputError where the input is missing or the encoder no longer gives the embeddings it was stored with,
    FormatError where its files are damaged.
    """
    match spec:
        case Pretrained():
            if spec.input not in inputs:
                raise InputError(
                    expected=f"the pretrained encoder as input {spec.input!r}",
                    found=f"inputs {', '.join(sorted(inputs)) or 'none'}",
                    remedy="Wire the `pretrain` step to it.",
                )
            network, card, probes = read_network(inputs[spec.input])
            encoder = NetworkEncoder(network, card.preprocessing, device)
            found = encoder.embed(probe_batch(card.preprocessing.size))
            require_same({tap: values.numpy() for tap, values in probes.items()}, found)
            return encoder
        case Untrained():
            return NetworkEncoder(initialise(spec.architecture, spec.seed), spec.preprocessing, device)
        case Oracle():
            return OracleEncoder(inputs.get("images"))
