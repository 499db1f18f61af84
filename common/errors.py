"""The one error tree.

::

    TransferlineError          every error that a user can mend
    ├── ConfigError            federation.toml, plant.toml or an argument
    ├── DataError              a plant's data folder
    ├── BackboneError          an unknown backbone, or weights that do not fit it
    ├── UpdateError            tensors that do not fit the schema or the rules
    ├── TrainingError          a round of training that had to stop
    ├── AggregationError       a sum that cannot be formed
    ├── StateError             state on disk: unreadable, damaged, full, locked
    ├── EngineError            Flower, Ray, nginx or a worker process
    ├── IdentityError          keys, certificates, tokens and signatures
    └── PolicyError            an order that the plant's policy forbids

The message is for the person at this machine: what, where, and what to do. What the other
side of a connection may see is ``code``, a short fixed word, never the message.
"""


class TransferlineError(Exception):
    """An error with one clear line for the user; the command line prints it and exits with 1."""

    code = "error"


class ConfigError(TransferlineError):
    code = "config"


class DataError(TransferlineError):
    code = "data"


class BackboneError(TransferlineError):
    code = "backbone"


class UpdateError(TransferlineError):
    code = "update"


class TrainingError(TransferlineError):
    code = "training"


class AggregationError(TransferlineError):
    code = "aggregation"


class StateError(TransferlineError):
    code = "state"


class EngineError(TransferlineError):
    code = "engine"


class IdentityError(TransferlineError):
    code = "identity"


class PolicyError(TransferlineError):
    """The one error whose message goes to the operator too: it says nothing about data."""

    code = "policy"
