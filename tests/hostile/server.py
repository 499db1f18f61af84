"""The other half of a hostile bundle: sends the order, and writes down what comes back."""

import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    end = time.monotonic() + 60
    while not (nodes := list(grid.get_node_ids())) and time.monotonic() < end:
        time.sleep(0.2)
    content = RecordDict({"head": ConfigRecord({"json": "{}"})})
    waiting = set(grid.push_messages([Message(content, nodes[0], "train")]))
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            text = str(reply.error) if reply.has_error() else str(reply.content["head"]["json"])
            Path(str(context.run_config["out"])).write_text(text)
            waiting.discard(reply.metadata.reply_to_message_id)
        time.sleep(0.2)
