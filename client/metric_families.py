"""The metrics of a plant's daemon, declared: what each means and which values its labels have.

They are for the plant's own monitoring; the centre never sees them. Still none holds a class name,
a file name or free text, and the number of series is fixed.
"""

from __future__ import annotations

from common.metrics import OTHER, PHASES, SCORES, STAGES, Family, counter, gauge
from common.orders import Kind, Outcome
from common.privacy import UNITS

KINDS = tuple(str(kind) for kind in Kind)
OUTCOMES = tuple(str(outcome) for outcome in Outcome)

#: Why an order was not done: codes of `common.errors`; ``policy`` is said in words in the history.
REASONS = (
    *("error", "config", "data", "backbone", "update", "training", "aggregation"),
    *("state", "engine", "identity", "policy"),
)
SPLITS = ("train", "validation", "test")
MODELS = ("round", "head_only", "local", "federated")

BUILD = gauge(
    "transferline_daemon_build_info", "Always 1; the plant and the version.", "plant", "version"
)
STARTED = gauge("transferline_daemon_start_timestamp_seconds", "When the daemon was started.")
ORDERS = counter(
    "transferline_daemon_orders_total",
    f"Orders answered, by kind ({', '.join(KINDS)}), outcome ({', '.join(OUTCOMES)}) and, where "
    "not done, the code of the reason; repeated ones came from the outbox.",
    "kind",
    "outcome",
    "reason",
    "repeated",
)
ORDER_SECONDS = counter(
    "transferline_daemon_order_seconds_total",
    "Seconds from an order's arrival to its answer, waiting included.",
    "kind",
)
BYTES = counter(
    "transferline_daemon_transfer_bytes_total",
    "Payload bytes between daemon and link: down are orders, up are answers.",
    "direction",
)
PHASE_SECONDS = counter(
    "transferline_daemon_phase_seconds_total",
    "Seconds of work by phase; train and tune are training.",
    "phase",
)
LAST_ORDER = gauge(
    "transferline_daemon_last_order_timestamp_seconds", "When the last order was answered."
)
DAY_ROUNDS = gauge(
    "transferline_daemon_last_day_rounds",
    "Rounds trained in the last 24 hours, which policy.rounds_per_day limits.",
)
BUSY = gauge("transferline_daemon_busy", "1 while an order is worked on, else 0.")
WAITING = gauge("transferline_daemon_waiting_orders", "Orders that wait for the one in hand.")
WORKER_STARTS = counter(
    "transferline_daemon_worker_starts_total",
    "Training processes started since the daemon was started; one is right.",
)
WORKER_KILLS = counter(
    "transferline_daemon_worker_kills_total",
    "Training processes that were killed because their time was up, since the daemon was started.",
)
SPEED = gauge(
    "transferline_daemon_images_per_second", "Images that the last training took in a second."
)
TRAINING = gauge(
    "transferline_daemon_last_training_seconds", "Seconds that the last training took."
)
LOSS = gauge("transferline_daemon_training_loss", "Mean loss of the last training, nats.")
GPU = gauge(
    "transferline_daemon_gpu_memory_bytes",
    "GPU memory: most that the last order took (used), and what there is (total).",
    "kind",
)
IMAGES = gauge("transferline_daemon_images", "Examples in use, by split.", "split")
SCORE = gauge(
    "transferline_daemon_score",
    "Latest scores on the plant's validation examples: its own model (local), the release as it "
    "came (incoming), after training (trained), after fine-tuning (tuned), the model that inspects "
    "parts (deployed). Shares from 0 to 1, rmse and mae in the target's units.",
    "stage",
    "metric",
)
VERSIONS = gauge("transferline_daemon_personal_versions", "Versions in the personal store.", "kind")
DEPLOYED = gauge(
    "transferline_daemon_deployed_version", "Number of the version that inspects parts."
)
SOURCE = gauge(
    "transferline_daemon_deployed_source",
    "1 for the kind of the model that inspects parts.",
    "kind",
)
EPSILON = gauge(
    "transferline_daemon_privacy_epsilon",
    "Bound on what all rounds so far tell, at the plant's delta, by unit of privacy (record: one "
    "training image, plant: all it has) and accountant; no series before the first round with "
    "noise.",
    "unit",
    "accountant",
)
DELTA = gauge(
    "transferline_daemon_privacy_delta", "The delta of epsilon: policy.privacy_delta of plant.toml."
)
BUDGET = gauge(
    "transferline_daemon_privacy_budget_epsilon",
    "Most epsilon that the plant allows: policy.privacy_budget; no series where it is not set.",
)
CHARGED = gauge(
    "transferline_daemon_privacy_rounds", "Rounds with noise that were charged, by unit.", "unit"
)
CERTIFICATES = gauge(
    "transferline_daemon_certificate_expiry_timestamp_seconds",
    "When the plant's certificate, and the CA that it trusts, end.",
    "role",
)
DISK_FREE = gauge("transferline_daemon_disk_free_bytes", "Bytes free where the plant's folder is.")
DISK_SIZE = gauge(
    "transferline_daemon_disk_size_bytes", "Bytes in all where the plant's folder is."
)

FAMILIES: tuple[Family, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Family)
)

#: By label, the values that it may have beside `OTHER`.
VALUES: dict[str, tuple[str, ...]] = {
    "kind": (*KINDS, *MODELS, "used", "total"),
    "outcome": OUTCOMES,
    "reason": (*REASONS, "none"),
    "repeated": ("no", "yes"),
    "direction": ("up", "down"),
    "phase": PHASES,
    "split": SPLITS,
    "stage": STAGES,
    "metric": SCORES,
    "role": ("ca", "plant"),
    "unit": tuple(UNITS),
    "accountant": ("rdp", "pld"),
}
assert OTHER not in {value for values in VALUES.values() for value in values}
