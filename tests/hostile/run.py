"""Runs a bundle's ClientApp as ``flwr-clientapp`` does: installed, first on ``sys.path``.

``python run.py BUNDLE RUN_CONFIG_JSON OUT``
"""

import hashlib
import json
import sys
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn

from tests.hostile.bundle import NAME, PUBLISHER, VERSION

content = Path(sys.argv[1]).read_bytes()
install_from_fab(content, skip_prompt=True)
load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
app = load(f"{PUBLISHER}/{NAME}", VERSION, hashlib.sha256(content).hexdigest())
metadata = Metadata(
    run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
    created_at=0.0, ttl=1e12, message_type="train",
)  # fmt: skip
context = Context(
    run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config=json.loads(sys.argv[2])
)
order = Message(RecordDict({"head": ConfigRecord({"json": "{}"})}), metadata=metadata)
Path(sys.argv[3]).write_text(str(app(order, context).content["head"]["json"]))
