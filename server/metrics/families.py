"""The metrics of a centre, declared: what each means and which values its labels have.

No label holds free text, and none grows with time: plants are at most `MOST_PLANTS`, everything
else is in a list here. What a plant says of itself (phases, scores, reasons) is looked up in these
lists, so that no plant can make the centre's metrics grow.
"""

from __future__ import annotations

from common.metrics import OTHER, PHASES, SCORES, STAGES, Family, counter, gauge
from common.orders import Kind, Outcome
from server.state.tables import (
    COMMITTED,
    ENROLLED,
    FAILED,
    FINISHED,
    QUEUED,
    REVOKED,
    RUNNING,
    SKIPPED,
    STOPPED,
    STOPPING,
)
from server.tally import LATE, REJECTED, UNASKED

#: Plants with samples of their own; what others did is summed under ``other``.
MOST_PLANTS = 200

KINDS = tuple(str(kind) for kind in Kind)
ROUND_OUTCOMES = (COMMITTED, SKIPPED)
RUN_STATES = (QUEUED, RUNNING, STOPPING, FINISHED, FAILED, STOPPED)
PLANT_STATES = (ENROLLED, REVOKED)
REPLY_OUTCOMES = (*(str(outcome) for outcome in Outcome), REJECTED, LATE, UNASKED)

#: Why a round was skipped: too few plants connected, too few replies counted, a sum broken off.
SKIP_REASONS = ("connected", "replies", "sum")

#: How a secure sum ended: opened, or the stage at which it was broken off.
SUM_ENDS = ("opened", "set-up", "masking", "who is left", "unmasking")

#: Why a reply was not counted: codes of `server.admission.Rejected` and of `common.errors`.
REASONS = (
    *("stale", "stranger", "twice", "head", "scores", "update"),
    *("schema", "form", "finite", "norm", "weight", "sum"),
    *("error", "config", "data", "backbone", "training", "aggregation"),
    *("state", "engine", "identity", "policy", "revoked"),
)

#: What is left of a round beside the phases of its slowest plant.
EXCHANGE = "exchange"

BUILD = gauge("transferline_build_info", "Always 1; the version that runs.", "version")
RUNS = gauge("transferline_runs", "Runs by state.", "state")
RUN_TAKEOVERS = counter(
    "transferline_run_takeovers_total",
    "Times that a run was continued by a new program, after a crash or a restart.",
)
RUN_HEARTBEAT = gauge(
    "transferline_run_heartbeat_timestamp_seconds",
    "When the program of the run in progress last said that it lives.",
)
RUN_ROUNDS = gauge(
    "transferline_run_rounds", "Rounds of training that the run in progress shall have."
)
RUN_CLOSED = gauge(
    "transferline_run_closed_rounds", "Rounds of training that the run in progress has closed."
)
ROUNDS = counter(
    "transferline_rounds_total",
    f"Rounds closed, by kind ({', '.join(KINDS)}) and outcome ({', '.join(ROUND_OUTCOMES)}).",
    "kind",
    "outcome",
)
SKIPPED_ROUNDS = counter(
    "transferline_skipped_rounds_total",
    "Rounds skipped: too few plants connected, too few replies counted, or a secure sum broken "
    "off.",
    "reason",
)
SUMS = counter(
    "transferline_secure_sums_total",
    f"Secure sums of closed rounds, by how they ended ({', '.join(SUM_ENDS)}: all but the first "
    "are the stage at which one was broken off).",
    "end",
)
SUM_DROPOUTS = counter(
    "transferline_secure_sum_dropouts_total",
    "Times that a plant shared its keys for a sum and sent no update for it.",
    "plant",
)
SUM_LIARS = counter(
    "transferline_secure_sum_wrong_shares_total",
    "Sums for which a plant gave wrong shares of another's secret; they were found.",
    "plant",
)
SUM_CLIPPED = counter(
    "transferline_secure_sum_clipped_values_total",
    "Values beyond secure_aggregation.bound, which the plants clipped; over all plants.",
)
ROUND_PHASES = counter(
    "transferline_round_phase_seconds_total",
    "Seconds of closed rounds: in the phases of the plant that took longest, and exchange, the "
    "rest: waiting for plants, transfer, aggregation, commit.",
    "kind",
    "phase",
)
ROUND_STARTED = gauge(
    "transferline_round_started_timestamp_seconds",
    "When the open round was started; absent between rounds.",
)
REPLIES = counter(
    "transferline_replies_total",
    f"Replies of closed rounds, by outcome ({', '.join(REPLY_OUTCOMES)}) and, where they were not "
    "counted, the code of the reason.",
    "plant",
    "outcome",
    "reason",
)
REFUSED = counter(
    "transferline_refused_replies_total",
    "Replies refused, by code; also those that stand for no plant: stale, stranger, twice; "
    "identity is a signature that is not right.",
    "reason",
)
BYTES = counter(
    "transferline_transfer_bytes_total",
    "Payload bytes of closed rounds: down is centre to plant, up is plant to centre.",
    "plant",
    "direction",
)
PLANT_PHASES = counter(
    "transferline_plant_phase_seconds_total",
    "Seconds that a plant spent, by its own account.",
    "plant",
    "phase",
)
PLANTS = gauge("transferline_plants", "Plants by state.", "state")
CONNECTED = gauge(
    "transferline_plant_connected",
    "1 if an enrolled plant was seen in the last 30 s, else 0.",
    "plant",
)
LAST_SEEN = gauge(
    "transferline_plant_last_seen_timestamp_seconds", "When a plant was last connected.", "plant"
)
SCORE = gauge(
    "transferline_plant_score",
    "What a plant last reported on its own validation examples: shares from 0 to 1, rmse and mae "
    "in the target's units.",
    "plant",
    "stage",
    "metric",
)
ADOPTIONS = counter(
    "transferline_adoptions_total",
    "Answers to the order to adopt: the plant adopted the release, or kept what it had.",
    "plant",
    "decision",
)
ADOPTED = gauge(
    "transferline_plant_adopted",
    "1 if the plant's last answer was to adopt the release, 0 if it kept what it had.",
    "plant",
)
RELEASE = gauge("transferline_release_number", "Number of the release in force.")
RELEASE_CREATED = gauge(
    "transferline_release_created_timestamp_seconds", "When the release in force was made."
)
ROLLBACKS = counter(
    "transferline_rollbacks_total", "Releases that brought an earlier one's content back."
)
CERTIFICATES = gauge(
    "transferline_certificate_expiry_timestamp_seconds",
    "When a certificate ends: of the centre (role ca, server, release) or of an enrolled plant.",
    "role",
    "name",
)
TOKENS = gauge("transferline_open_tokens", "Invitations that are neither used nor expired.")
JOURNAL = gauge("transferline_journal_entries", "Entries of the signed log.")
PROCESS_UP = gauge(
    "transferline_process_up", "1 if a program that the centre supervises runs, else 0.", "process"
)
PROCESS_RESTARTS = counter(
    "transferline_process_restarts_total",
    "Times that a supervised program was started again since the centre was started.",
    "process",
)
DISK_FREE = gauge("transferline_disk_free_bytes", "Bytes free where the centre's folder is.")
DISK_SIZE = gauge("transferline_disk_size_bytes", "Bytes in all where the centre's folder is.")

FAMILIES: tuple[Family, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Family)
)

#: By label, the values that it may have beside `OTHER`; ``plant``, ``name`` and ``process`` are
#: names of the operator's.
VALUES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "outcome": (*ROUND_OUTCOMES, *REPLY_OUTCOMES),
    "reason": (*REASONS, *SKIP_REASONS, "none", LATE),
    "phase": (*PHASES, EXCHANGE),
    "direction": ("up", "down"),
    "stage": STAGES,
    "metric": SCORES,
    "state": (*RUN_STATES, *PLANT_STATES),
    "end": SUM_ENDS,
    "decision": ("adopted", "kept"),
    "role": ("ca", "server", "release", "plant"),
}
assert OTHER not in {value for values in VALUES.values() for value in values}
